"""The reference's log-probabilities of whole answers: computed once, by the policy before its first update.

One number for each answer is kept in the run's folder and in every checkpoint, so that a resumed run has the same bits
and no second model is in memory. A checksum of the answer's tokens is kept with it, to notice data that has changed.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hone.errors import CheckpointError
from hone.files import replacing
from hone.tracking import Progress
from hone.types import LogprobModel, Sample

NAME = "reference.pt"
_EPOCH = re.compile(r"@\d+(?=:[^:]*$)")


def key_of(sample: Sample) -> str:
    """A sample's id without its epoch."""
    return _EPOCH.sub("", sample.id)


def checksum(sample: Sample) -> int:
    """A checksum of the tokens and of the loss mask."""
    tokens = sample.tokens_T.numpy().astype(np.int64).tobytes()
    return zlib.crc32(sample.loss_mask_T.numpy().tobytes(), zlib.crc32(tokens))


class ReferenceLogprobs:
    """Sums of log-probabilities by answer. `identity`: of which model and tokenizer; a file of another identity is not
    read."""

    def __init__(self, folder: Path, identity: Any) -> None:
        self.file = folder / NAME
        self.identity = json.dumps(identity, sort_keys=True, default=str)
        self.sums: dict[str, tuple[int, float]] = {}

    def read(self) -> None:
        """Read what an earlier process left in the run's folder, if it has the same identity."""
        if not self.file.is_file():
            return
        try:
            state = torch.load(self.file, weights_only=True)
            if state["identity"] == self.identity:
                self.load_state_dict(state)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a damaged file makes torch raise: it can be computed again
            print(f"{self.file} cannot be read ({type(error).__name__}): computed again", file=sys.stderr)

    def write(self) -> None:
        """Write all sums to the run's folder."""
        with replacing(self.file) as temporary:
            torch.save(self.state_dict(), temporary)

    async def compute(self, model: LogprobModel, chunks: Iterable[Sequence[Sample]], total: int) -> None:
        """Compute the sums that are missing, and report progress. `total`: expected number of units."""
        done, new = 0, 0
        with Progress(total, "reference") as progress:
            for samples in chunks:
                missing = [s for s in samples if self.sums.get(key_of(s), (None,))[0] != checksum(s)]
                if missing:
                    bare = [replace(sample, sequence_columns={}) for sample in missing]
                    for sample, logprobs_T in zip(missing, await model.forward(bare), strict=True):
                        self.sums[key_of(sample)] = (checksum(sample), float(logprobs_T.double().sum()))
                    new += len(missing)
                    done = min(total, done + len({s.unit for s in samples}))
                    progress.phase("reference log-probabilities", done, max(total, done))
        if new:
            self.write()

    def attach(self, samples: Iterable[Sample]) -> None:
        """Set each sample's column `reference_logprob_sum`. Raises CheckpointError for changed tokens."""
        for sample in samples:
            known = self.sums.get(key_of(sample))
            if known is None or known[0] != checksum(sample):
                raise _changed(key_of(sample))
            sample.sequence_columns["reference_logprob_sum"] = known[1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "keys": "\n".join(self.sums),
            "checksums": torch.tensor([c for c, _ in self.sums.values()], dtype=torch.int64),
            "sums": torch.tensor([v for _, v in self.sums.values()], dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved sums over those computed since. Raises CheckpointError if they are about other answers."""
        keys = state["keys"].split("\n") if state["keys"] else []
        pairs = zip(state["checksums"].tolist(), state["sums"].tolist(), strict=True)
        for key, saved in zip(keys, pairs, strict=True):
            if key in self.sums and self.sums[key][0] != saved[0]:
                raise _changed(key)
            self.sums[key] = saved


def _changed(key: str) -> CheckpointError:
    return CheckpointError(
        f"the answer {key} is not the one whose reference log-probability was computed when the run began: the data "
        "has changed. Bring it back, or start a new run in another checkpointing.checkpoint_dir"
    )
