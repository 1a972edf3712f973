"""One-line messages about model files that cannot be read."""

from __future__ import annotations

import pickle
import re

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

UNREADABLE = (
    *(OSError, ValueError, RuntimeError),
    *(SafetensorError, StrictDataclassError, pickle.UnpicklingError),
)
"""What the libraries raise for a model's files that they cannot read."""


def one_line(error: BaseException) -> str:
    """The error's first line, or the last where the first only says which check failed; some causes in Hone's words."""
    if str(error).startswith("We couldn't connect to"):
        return (
            "there is no such folder here, the Hugging Face hub cannot be reached, and nothing of that name was "
            "downloaded before. A folder that transformers wrote needs no network"
        )
    text = str(error)
    if "contains custom code" in text or "references custom code" in text:
        return (
            "it comes with Python code of its own, which would run with your rights. Read that code, then set "
            "trust_remote_code=true beside the model's name (policy.trust_remote_code=true)"
        )
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", text)):
        return (
            f"a pickle in it names {found[1]}, which may be code, and only tensors are read from pickles: nothing of "
            "it was run. Get the weights as safetensors"
        )
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, StrictDataclassError) else 0].strip()
