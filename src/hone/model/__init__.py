"""Loading models and tokenizers, and log-probabilities without the full logits."""

from hone.model.loading import load_model, load_tokenizer
from hone.model.scorer import TokenScorer

__all__ = ["TokenScorer", "load_model", "load_tokenizer"]
