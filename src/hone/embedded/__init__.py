"""The embedded default: a tiny model, its tokenizer, a generated task and recipes, all inside the package.

`hone/tiny` has no weights (they are initialised at random), `hone/tiny-sft` has the weights of a short SFT run,
`hone/word-problems` is the task (see `task`), and `hone/word-problem-preferences` has pairs of answers to it (see
`preference_pairs`). No torch is imported here. `scripts/build_embedded.py` in the repository rebuilds every file.
"""

from hone.embedded.resources import DATASETS, MODELS, RECIPES, dataset_rows

__all__ = ["DATASETS", "MODELS", "RECIPES", "dataset_rows"]
