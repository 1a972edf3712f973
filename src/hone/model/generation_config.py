"""A generation_config.json that transformers can save.

transformers loads files with contradictory settings (`do_sample: false` with a `temperature`), which published models
have, but refuses to write them, so that training would end without a model.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

SAMPLING = """
temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff num_return_sequences
""".split()
"""Settings that are read only if `do_sample` is true."""
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def savable(given: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """A generation config that can be saved, and the names of the settings left out for that: those that greedy
    decoding does not read, else all but the tokens."""
    if _is_savable(given):
        return given, []
    settings = given.to_diff_dict()
    greedy = {} if given.do_sample else {k: v for k, v in settings.items() if k not in SAMPLING}
    for kept in (greedy, {k: v for k, v in settings.items() if k in TOKENS}):
        if kept and _is_savable(found := GenerationConfig(**kept)):
            return found, sorted(settings.keys() - kept.keys() - {"transformers_version"})
    return GenerationConfig(), sorted(settings.keys() - {"transformers_version"})


def notices(part: str, name: str, source: str) -> list[str]:
    """A notice about settings that a conversion will leave out of the file of model `name` (`part`.model_name)."""
    try:
        given = GenerationConfig.from_pretrained(source)
    except (OSError, ValueError):  # a model need not have one
        return []
    left_out = savable(given)[1]
    if not left_out:
        return []
    return [
        f"{part}.model_name={name}: transformers does not save its generation_config.json as it is; what is trained is "
        f"written without {', '.join(left_out)}"
    ]


def _is_savable(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
