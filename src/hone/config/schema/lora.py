"""The section `lora` of a model that is trained: which adapters, and how they begin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hone.config.paths import LocalPath
from hone.config.schema.base import ConfigModel, Count, section

INITIAL = r"^(kaiming|xavier|gaussian|orthogonal|olora|pissa(_niter_\d+)?)$"
AdapterInit = Annotated[str, StringConstraints(pattern=INITIAL)]


class AdaLoraConfig(ConfigModel):
    """AdaLoRA (arXiv 2303.10512): begin with more rank than is wanted, and take it from where it helps least."""

    enabled: bool = False
    """Let `dim` be the mean rank that is left in the end; which layers keep more is found out in training."""
    init_r: Count | None = None
    """Rank at the start; null: half more than `dim`."""
    tinit: int = Field(0, ge=0)
    """Updates before ranks begin to fall."""
    tfinal: int = Field(0, ge=0)
    """Updates at the end in which ranks stay as they are."""
    deltaT: int = Field(1, ge=1)
    """Ranks are set anew every so many updates."""
    beta1: float = Field(0.85, gt=0, lt=1)
    """Smoothing of a weight's importance."""
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing of how uncertain its importance is."""
    orth_reg_weight: float = Field(0.5, ge=0)
    """Weight of the penalty that keeps the factors orthogonal."""
    total_step: Count | None = None
    """Updates of the run, which the ranks' fall is spread over; must be given."""


class LoraConfig(ConfigModel):
    """Low-rank adapters in place of training all weights."""

    enabled: bool = False
    """Train adapters and leave the base weights as they are."""
    dim: int = Field(8, ge=1)
    """Rank."""
    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / dim."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: list[str] = Field(default_factory=list)
    """Names of modules that get an adapter, such as q_proj."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Names of modules that get none; `experts` and `gate` are those of a mixture of experts."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Names of modules that are trained, and saved, as a whole, such as embed_tokens and lm_head. Embeddings that are
    tied stay so."""
    match_all_linear: bool = True
    """All linear modules get an adapter. `target_modules` must be empty then."""
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Numbers of tokens whose embeddings alone are trained besides, such as those of a chat template that the model has
    not met; of tied embeddings in the head, too."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(dim), which keeps high ranks learning (rsLoRA, arXiv 2312.03732)."""
    use_dora: bool = False
    """Learn the length of each weight row apart from its direction (DoRA, arXiv 2402.09353)."""
    adalora: AdaLoraConfig = section(AdaLoraConfig)
    init_lora_weights: AdapterInit | None = None
    """How the first factor begins, while the second is zero: kaiming, xavier or gaussian. orthogonal: both factors,
    their product zero. pissa (or pissa_niter_N, faster) and olora begin with the base weight's main directions, which
    are taken out of the base. null: kaiming; AdaLoRA has a way of its own."""
    adapter_path: LocalPath | None = None
    """Folder of an adapter (as PEFT saves them, and `hone convert --adapter`) to go on training. Its own rank, scale,
    modules and variant hold then."""
    load_in_4bit: bool = False
    """Hold the base weights in 4 bits (QLoRA, arXiv 2305.14314), by bitsandbytes: for one GPU."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Number format of the 4 bits."""
    bnb_4bit_use_double_quant: bool = False
    """Hold the scales of the 4-bit numbers in 8 bits."""

    @property
    def rank(self) -> int:
        """The rank that matrices are made with."""
        if not self.adalora.enabled:
            return self.dim
        return self.adalora.init_r if self.adalora.init_r is not None else self.dim + -(-self.dim // 2)

    @property
    def modifies_base_weights(self) -> bool:
        """Whether what the adapters begin with is taken out of the base weights."""
        return (self.init_lora_weights or "").startswith(("pissa", "olora"))

    @property
    def base_is_initial_model(self) -> bool:
        """Whether the model without its adapters is the one that training begins with."""
        return not self.modifies_base_weights and self.adapter_path is None
