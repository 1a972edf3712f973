"""The learner's weights under the names, and in the pieces, of checkpoints on the hub, which vLLM reads.

transformers keeps some weights otherwise than its checkpoints have them: the experts of a layer are one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from hone.engine.local.weight_sync import LearnerWeights


class CheckpointWeights(LearnerWeights):
    """All weights as `save_pretrained` would write them, one tensor of the model at a time."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in super().__iter__():
            yield from revert_weight_conversion(self.model, {name: tensor}).items()  # type: ignore[arg-type]
