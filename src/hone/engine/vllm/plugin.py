"""What vLLM calls in each of its processes (entry point group `vllm.general_plugins`): names Hone's weight transfer."""

from __future__ import annotations

BACKEND = "hone_files"
"""The name of `FileTransferEngine` in vLLM's `--weight-transfer-config`."""


def register() -> None:
    """Add the engine to vLLM's factory, once in a process. Its module is imported when a worker asks for it."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:  # vLLM has no other way to ask
        WeightTransferEngineFactory.register_engine(
            BACKEND, "hone.engine.vllm.transfer_engine", "FileTransferEngine"
        )
