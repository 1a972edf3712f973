"""Data: from rows to token sequences. Sources, row formats, chat templates, resumable order, packing plans."""

from hone.data.preferences import PreferenceData, build_preferences
from hone.data.prompts import PromptData, build_eval_prompts, build_prompts
from hone.data.supervised import SupervisedData, build_supervised

__all__ = [
    "PreferenceData",
    "PromptData",
    "SupervisedData",
    "build_eval_prompts",
    "build_preferences",
    "build_prompts",
    "build_supervised",
]
