"""`hone doctor`: whether a run can start on this machine, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from hone import embedded
from hone.errors import HoneError, install_command
from hone.registry import specs
from hone.units import GIB

OPTIONAL = {
    "peft": ("adapters such as LoRA", "hone[peft]"),
    "ray": ("several devices or machines", "hone[ray]"),
    "optuna": ("hone tune", "hone[tune]"),
    "wandb": ("logger.wandb_enabled", "hone[wandb]"),
    "mlflow": ("logger.mlflow_enabled", "hone[mlflow]"),
    "trl": ("the benchmarks' peer", "hone[bench]"),
}
"""Module: its use, and what pip installs for it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `bad`: runs cannot start; `absent`: an optional part; `poor`: a warning."""

    name: str
    state: Literal["ok", "poor", "absent", "bad"]
    text: str
    fix: str = ""


def main() -> int:
    """Print the report; 0 if a run can start here, 1 if not."""
    findings = list(examine())
    show(findings)
    if bad := [finding for finding in findings if finding.state == "bad"]:
        print("A run cannot start here: " + "; ".join(f.fix or f"{f.name}: {f.text}" for f in bad))
        return 1
    print(f"A run can start: hone {next(iter(specs()))}")
    return 0


def examine() -> Iterator[Finding]:
    """All findings, cheap ones first. Missing parts of an installation are findings, never exceptions."""
    yield python()
    missing = list(packages())
    yield from missing
    if not missing:
        yield Finding("packages", "ok", "every required package is there, in a version that Hone supports")
        yield from torch_and_devices()
        yield memory()
    yield disk(Path.cwd())
    if not missing:
        yield embedded_model()
    yield programs()
    yield from optional()


def python() -> Finding:
    """The interpreter; pip refuses to install Hone into one that is too old."""
    text = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    return Finding("python", "ok", text)


def packages() -> Iterator[Finding]:
    """Required packages that are missing or of another version than the installed Hone declares."""
    try:
        from packaging.requirements import Requirement

        declared = [Requirement(text) for text in metadata.requires("hone") or ()]
    except (ImportError, metadata.PackageNotFoundError) as error:
        text = f"Hone is not fully installed ({error})"
        yield Finding("packages", "bad", text, "make setup, or pip install -e .")
        return
    for needed in declared:
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        fix = install_command(f"{needed.name}{needed.specifier}")
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding(needed.name, "bad", "not installed", fix)
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield Finding(needed.name, "bad", f"{version} is installed, {needed.specifier} is needed", fix)


def torch_and_devices() -> Iterator[Finding]:
    """torch, and the devices that it finds."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        yield Finding("torch", "bad", f"does not load: {first_line(error)}", "make clean setup")
        return
    from hone.engine.local.threads import cores

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads on {cores()} cores")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: set policy.precision=float16"
            name = torch.cuda.get_device_name(index)
            yield Finding(
                f"gpu {index}", "ok", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}"
            )
    elif shutil.which("nvidia-smi") is not None:
        built = torch.version.cuda or "no CUDA"
        text = f"an NVIDIA driver, but torch (built for {built}) finds no device: runs use the CPU"
        yield Finding("gpu", "poor", text, "install a torch build that matches the driver")
    else:
        yield Finding("gpu", "ok", "none: runs use the CPU, which is enough for small models")


def memory() -> Finding:
    """Main memory."""
    import psutil

    state = psutil.virtual_memory()
    text = f"{state.available / GIB:.1f} of {state.total / GIB:.1f} GiB free"
    if state.available < 1.5 * GIB:
        return Finding("memory", "poor", text, "even small models want 1.5 GiB: close something")
    return Finding("memory", "ok", text)


def disk(folder: Path) -> Finding:
    """Free space for runs' folders, which are in `results/` below the working directory."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", "bad", f"cannot look at {folder}: {error.strerror}", "go to another folder")
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        elsewhere = "set checkpointing.checkpoint_dir to a folder you may write"
        return Finding("disk", "bad", f"{folder} cannot be written", elsewhere)
    if free < GIB // 4:
        fix = "free some space, or set checkpointing.checkpoint_dir to another disk"
        return Finding("disk", "bad", text, fix)
    if free < 5 * GIB:
        return Finding("disk", "poor", text, "a checkpoint of 1B parameters takes about 12 GiB")
    return Finding("disk", "ok", text)


def embedded_model() -> Finding:
    """Whether a model that comes with Hone loads."""
    started, name = time.perf_counter(), list(embedded.MODELS)[-1]
    try:
        from hone.model.loading import load_model, load_tokenizer

        count = sum(weight.numel() for weight in load_model(name).parameters())
        load_tokenizer(name)
    except (ImportError, OSError, HoneError) as error:
        return Finding("model", "bad", f"{name} does not load: {first_line(error)}", "make clean setup")
    seconds = time.perf_counter() - started
    return Finding("model", "ok", f"{name} loads: {count / 1e6:.2f}M parameters in {seconds:.1f} s")


def programs() -> Finding:
    """How the sandbox isolates programs that a model wrote."""
    from hone.rollout.sandbox import IsolationError, Sandbox, SandboxLimits

    try:
        with Sandbox(SandboxLimits(require_isolation=False)) as box:
            text = box.start()
    except IsolationError as error:
        return Finding("sandbox", "poor", first_line(error), "the reward function code cannot be used here")
    if "NO NAMESPACES" not in text:
        return Finding("sandbox", "ok", f"programs that a model wrote: {text}")
    fix = (
        "the reward function code needs Linux with user namespaces, or root with CAP_SYS_ADMIN (see SECURITY.md); "
        "rewards.sandbox.require_isolation=false runs it without"
    )
    return Finding("sandbox", "poor", f"programs that a model wrote: {text}", fix)


def optional() -> Iterator[Finding]:
    """Parts that some settings need."""
    for name, (purpose, needed) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding(name, "absent", f"not installed; for {purpose}", install_command(needed))
        else:
            yield Finding(name, "ok", f"{version_of(name)}; for {purpose}")


def version_of(module: str) -> str:
    """Version of the package that an optional module came with."""
    for package in (module, f"{module}-skinny"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown version"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return re.split(r"[\r\n]", str(error).strip(), maxsplit=1)[0] or type(error).__name__


def show(findings: list[Finding]) -> None:
    """Print the findings as a table, or as plain lines if rich is missing."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        for f in findings:
            print(f"{f.state:<7}{f.name:<12}{f.text}{' -> ' if f.fix else ''}{f.fix}")
        return
    marks = {
        "ok": "[green]ok[/]",
        "poor": "[yellow]poor[/]",
        "absent": "[dim]-[/]",
        "bad": "[bold red]BAD[/]",
    }
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for f in findings:
        fix = f"\n[cyan]{escape(f.fix)}[/]" if f.fix else ""
        table.add_row(marks[f.state], f.name, escape(f.text) + fix)
    Console(highlight=False).print(table)
