"""The section `lora` of a trained model: low-rank adapters and their initialisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from hone.config.paths import LocalPath
from hone.config.schema.base import ConfigModel, Count, section

INITIAL = r"^(kaiming|xavier|gaussian|orthogonal|olora|pissa(_niter_\d+)?)$"
AdapterInit = Annotated[str, StringConstraints(pattern=INITIAL)]


class AdaLoraConfig(ConfigModel):
    """AdaLoRA (arXiv 2303.10512): start with higher ranks, and reduce those that matter least."""

    enabled: bool = False
    """Use AdaLoRA. `dim` is then the mean rank at the end; training determines the rank of each layer."""
    init_r: Count | None = None
    """Initial rank; null: 1.5 times `dim`."""
    tinit: int = Field(0, ge=0)
    """Updates before ranks are reduced."""
    tfinal: int = Field(0, ge=0)
    """Updates at the end in which ranks are fixed."""
    deltaT: int = Field(1, ge=1)
    """Updates between two reductions of ranks."""
    beta1: float = Field(0.85, gt=0, lt=1)
    """Smoothing of a weight's importance."""
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing of the uncertainty of its importance."""
    orth_reg_weight: float = Field(0.5, ge=0)
    """Weight of the penalty that keeps the factors orthogonal."""
    total_step: Count | None = None
    """Updates of the whole run, the schedule of the reduction; required."""


class LoraConfig(ConfigModel):
    """Train low-rank adapters instead of all weights."""

    enabled: bool = False
    """Train adapters and freeze the base weights."""
    dim: int = Field(8, ge=1)
    """Rank."""
    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / dim."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: list[str] = Field(default_factory=list)
    """Modules that get an adapter, by name, such as q_proj."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Modules that get no adapter, by name; `experts` and `gate` are those of a mixture of experts."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Modules that are trained and saved in full, by name, such as embed_tokens and lm_head. Tied embeddings stay
    tied."""
    match_all_linear: bool = True
    """All linear modules get an adapter; requires that `target_modules` is empty."""
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Token ids whose embeddings are trained too, such as a chat template's tokens that are new to the model. With
    tied embeddings this includes their rows of the output layer."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(dim), which keeps high ranks learning (rsLoRA, arXiv 2312.03732)."""
    use_dora: bool = False
    """Learn the magnitude of each weight row separately from its direction (DoRA, arXiv 2402.09353)."""
    adalora: AdaLoraConfig = section(AdaLoraConfig)
    init_lora_weights: AdapterInit | None = None
    """Initialisation. kaiming, xavier or gaussian: of the first factor; the second is zero. orthogonal: of both
    factors, with product zero. pissa (or the faster pissa_niter_N) and olora: from the base weight's principal
    directions, which are subtracted from the base. null: kaiming; AdaLoRA has its own initialisation."""
    adapter_path: LocalPath | None = None
    """Folder of an adapter to continue training, as saved by PEFT or by `hone convert --adapter`. Its rank, scale,
    modules and variant are used."""
    load_in_4bit: bool = False
    """QLoRA (arXiv 2305.14314): hold the base weights in 4 bits, with bitsandbytes. For one GPU."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Number format of the 4 bits."""
    bnb_4bit_use_double_quant: bool = False
    """Hold the scales of the 4-bit numbers in 8 bits."""

    @property
    def rank(self) -> int:
        """The rank of the adapter's matrices at the start."""
        if not self.adalora.enabled:
            return self.dim
        return self.adalora.init_r if self.adalora.init_r is not None else self.dim + -(-self.dim // 2)

    @property
    def modifies_base_weights(self) -> bool:
        """Whether the adapters' initial product is subtracted from the base weights."""
        return (self.init_lora_weights or "").startswith(("pissa", "olora"))

    @property
    def base_is_initial_model(self) -> bool:
        """Whether the model without its adapters is the initial policy."""
        return not self.modifies_base_weights and self.adapter_path is None
