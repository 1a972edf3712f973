"""Weights for a vLLM worker from the files of `hone.engine.weight_files`. Imported in vLLM's processes alone.

A tensor that has several names in the learner (tied embeddings) is loaded under each of them: vLLM reloads layer by
layer, and a head that shares its tensor with the embeddings would keep the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from hone.engine.weight_files import Publication


@dataclass
class FileInitInfo(WeightTransferInitInfo):
    """Nothing is agreed on before the first update."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):
    """Which version to load, and the folder that holds it."""

    folder: str
    version: int


class FileTransferEngine(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):
    """Loads a published version after its files were verified. Once an update has begun vLLM has given up its weights:
    after one that is refused the server cannot be used, and the run stops."""

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        """There is no connection to make."""

    def start_weight_update(self) -> None:
        """Prepare every layer for weights in the format of a checkpoint."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        """Read, verify and load one version. Raises WeightSyncError."""
        publication = Publication.open(Path(update_info.folder), update_info.version)
        publication.verify()
        self.model.load_weights(_all_names(publication))

    def finish_weight_update(self) -> None:
        """Make of each layer's weights what its kernels read."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """There is nothing to release."""


def _all_names(publication: Publication) -> Iterator[tuple[str, Tensor]]:
    others = {first: rest for first, *rest in publication.ties}
    for name, tensor in publication:
        yield name, tensor
        for other in others.get(name, ()):
            yield other, tensor
