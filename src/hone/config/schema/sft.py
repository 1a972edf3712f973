"""The configuration of `hone sft`."""

from __future__ import annotations

from hone.config.schema.base import section
from hone.config.schema.supervised import SupervisedConfig, SupervisedSection


class SFTSection(SupervisedSection):
    """Supervised fine-tuning."""

    only_unmask_final: bool = False
    """Train on the last assistant turn of a conversation only, rather than on every assistant turn."""


class SFTConfig(SupervisedConfig):
    """All settings of `hone sft`."""

    sft: SFTSection = section(SFTSection)
