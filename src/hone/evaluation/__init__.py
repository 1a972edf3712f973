"""`hone eval`: sample answers from a model, score them, report pass@k or cons@k."""

from hone.evaluation.evaluate import check, evaluate, main
from hone.evaluation.metrics import consensus_at_k, pass_at_k

__all__ = ["check", "consensus_at_k", "evaluate", "main", "pass_at_k"]
