"""Weights for a vLLM worker from the files of `hone.engine.weight_files`. Imported in vLLM's processes alone.

A tensor that has several names in the learner (tied embeddings) is loaded under each of them: vLLM reloads layer by
layer, and a head that shares its tensor with the embeddings would keep the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """What is compared before the first update."""

    expected: dict[str, Any] = field(default_factory=dict)
    """Sizes of the learner's model, by their names in config.json."""
    sign: str | None = None
    """A file that the learner has just made in the folder of weights."""


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
        """Raise ValueError, as a verb phrase about the server, for another model, or a folder that is not seen here."""
        config = self.model_config.hf_config
        text = config.get_text_config()
        for name, wanted in init_info.expected.items():
            if (has := getattr(config if name == "model_type" else text, name)) != wanted:
                raise ValueError(f"has another model than the learner: {name}={has}, not {wanted}")
        if init_info.sign is not None and not Path(init_info.sign).is_file():
            raise ValueError(
                f"does not see {Path(init_info.sign).parent}, which the run writes weights to: share this folder "
                "with it, or put checkpointing.checkpoint_dir on a file system that both have"
            )

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
