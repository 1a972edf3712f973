"""Settings of adapters that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.schema.lora import LoraConfig


def adapters(lora: LoraConfig, head: str, offload: bool | None = None) -> Iterator[str]:
    """What is wrong with `policy.lora`, or with another model's, whose key is `head`."""
    if not lora.enabled:
        return
    if lora.target_modules and lora.match_all_linear:
        yield (
            f"{head}.target_modules names modules, but {head}.match_all_linear=true takes all: set "
            "match_all_linear to false, or target_modules to []"
        )
    if not lora.target_modules and not lora.match_all_linear:
        yield f"{head}.match_all_linear=false and {head}.target_modules=[] leave no module"
    begin = lora.init_lora_weights
    if begin == "orthogonal" and lora.dim % 2:
        yield f"{head}.init_lora_weights=orthogonal needs an even rank: set {head}.dim to {lora.dim + 1}"
    if lora.use_dora and lora.modifies_base_weights:
        yield (
            f"{head}.use_dora=true and {head}.init_lora_weights={begin} each take the base weights apart: set one of "
            "them only"
        )
    if lora.load_in_4bit and lora.modifies_base_weights:
        yield (
            f"{head}.init_lora_weights={begin} changes the base weights, which {head}.load_in_4bit=true keeps in 4 "
            "bits: set init_lora_weights to null"
        )
    if lora.load_in_4bit and offload:
        yield f"{head}.load_in_4bit=true and policy.cpu_offload=true exclude each other: set one of them to false"
    if lora.adapter_path is not None and (lora.adalora.enabled or begin is not None):
        key = "adalora.enabled" if lora.adalora.enabled else "init_lora_weights"
        yield f"{head}.adapter_path says what the adapter is, and {head}.{key} says another: leave one of them out"
    if lora.adalora.enabled:
        yield from _adalora(lora, head)


def _adalora(lora: LoraConfig, head: str) -> Iterator[str]:
    settings = lora.adalora
    if lora.trainable_token_indices:
        yield (
            f"{head}.adalora.enabled=true knows no {head}.trainable_token_indices: name embed_tokens in "
            f"{head}.modules_to_save"
        )
    for key in ("use_rslora", "use_dora", "load_in_4bit", "init_lora_weights"):
        if getattr(lora, key) not in (False, None):
            yield f"{head}.adalora.enabled=true and {head}.{key}={getattr(lora, key)} exclude each other: set one"
    if lora.rank <= lora.dim:
        yield f"{head}.adalora.init_r={lora.rank} is not above {head}.dim={lora.dim}, the mean rank left: raise it"
    if settings.total_step is None:
        yield (
            f"{head}.adalora.enabled=true needs {head}.adalora.total_step, the updates that the run makes: `hone plan` "
            "counts them"
        )
    elif settings.tinit + settings.tfinal >= settings.total_step:
        yield (
            f"{head}.adalora.tinit={settings.tinit} and {head}.adalora.tfinal={settings.tfinal} leave none of the "
            f"{head}.adalora.total_step={settings.total_step} updates for ranks to fall in: lower them"
        )
