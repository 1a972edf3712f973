"""`hone convert`: from a checkpoint to a Hugging Face folder."""

from hone.export.convert import convert, locate

__all__ = ["convert", "locate"]
