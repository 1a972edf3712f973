"""Names of TRL, and of the trainers that write settings as it does."""

from __future__ import annotations

from hone.config.compat.trl.names import REPLACEMENTS, aliases, rules

__all__ = ["REPLACEMENTS", "aliases", "rules"]
