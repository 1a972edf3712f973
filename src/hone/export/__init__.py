"""`hone convert`: from a checkpoint to a Hugging Face folder."""

from hone.export.convert import convert, locate
from hone.export.resolve_run_models import with_models_of_runs

__all__ = ["convert", "locate", "with_models_of_runs"]
