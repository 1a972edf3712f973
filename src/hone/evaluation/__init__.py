"""`hone eval`: sample answers from a model, score them, report pass@k."""

from hone.evaluation.evaluate import evaluate, main, pass_at_k

__all__ = ["evaluate", "main", "pass_at_k"]
