"""`hone convert`: from a checkpoint to a Hugging Face folder."""

from hone.export.convert import convert, locate
from hone.export.of_run import with_models_of_runs

__all__ = ["convert", "locate", "with_models_of_runs"]
