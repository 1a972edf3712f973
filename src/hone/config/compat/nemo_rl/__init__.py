"""Names of NeMo RL, NeMo and its tutorials."""

from __future__ import annotations

from hone.config.compat.nemo_rl.renamed import aliases
from hone.config.compat.nemo_rl.unsupported import REPLACEMENTS, REWARD_ENVIRONMENTS, rules

__all__ = ["REPLACEMENTS", "REWARD_ENVIRONMENTS", "aliases", "rules"]
