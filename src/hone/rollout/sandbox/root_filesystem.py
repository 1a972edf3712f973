"""A root file system with the files that Python needs: standard library, installed packages, shared libraries.

It contains neither folders with the user's code (the working directory, editable packages) nor Hone, whose package
holds data.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hone.rollout.sandbox import kernel

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_EXTRA = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
_SHARED_PREFIXES = ("/", "/usr", "/usr/local", "/opt/homebrew")
_LINKS = ("/lib", "/lib64", "/lib32")
_WORK_FOLDERS = ("/tmp", "/work", "/box", "/.hone-sandbox")
_MOUNT_POINTS = ("/tmp", "/dev/shm", "/run", "/mnt", "/media", "/srv")


@dataclass(frozen=True)
class PythonFiles:
    """Paths that a program may read; none is below another."""

    paths: tuple[str, ...]
    import_path: tuple[str, ...]
    """The sys.path of programs."""
    hidden: tuple[str, ...]
    """Folders below `paths` that an empty mount hides."""


def needed() -> PythonFiles:
    """The files of this process's interpreter."""
    standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    kept = [entry for entry in sys.path if os.path.exists(entry) and _is_pythons(entry, standard)]
    wanted = {*kept, *standard, *_libraries(), *_interpreter(), *_EXTRA}
    wanted |= {os.path.realpath(path) for path in wanted}
    present = sorted(path for path in wanted if os.path.exists(path))
    own = str(Path(__file__).resolve().parents[2])
    copies = {f"{folder}/hone" for entry in kept for folder in (entry, os.path.realpath(entry))}
    hidden = sorted(copy for copy in copies if os.path.realpath(copy) == own)
    return PythonFiles(tuple(_tops(present)), tuple(kept), tuple(hidden))


def _is_pythons(entry: str, standard: set[str]) -> bool:
    beside = {os.path.dirname(folder) for folder in standard}
    inside = any(entry == folder or entry.startswith(f"{folder}/") for folder in standard)
    inside |= entry.endswith(".zip") and os.path.dirname(entry) in beside
    return inside or os.path.basename(entry) in ("site-packages", "dist-packages")


def _interpreter() -> Iterator[str]:
    """The executable, and the libraries of Python's own prefix."""
    yield sys.executable
    yield os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "pyvenv.cfg")
    for prefix in {sys.prefix, sys.base_prefix} - set(_SHARED_PREFIXES):
        yield os.path.join(prefix, "lib")


def _libraries() -> Iterator[str]:
    """Folders of shared libraries: the system's, and those that this process has loaded libraries from."""
    if multiarch := sysconfig.get_config_var("MULTIARCH"):
        yield from (f"{folder}/{multiarch}" for folder in ("/lib", "/usr/lib", "/usr/local/lib"))
    yield from ("/lib64", "/usr/lib64")
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in mapped:
        file = line.partition("/")[1] + line.partition("/")[2]
        if ".so" in os.path.basename(file) and os.path.isfile(file):
            yield os.path.dirname(file)


def _tops(paths: list[str]) -> Iterator[str]:
    top = "\0"
    for path in sorted(paths, key=lambda each: each.rstrip("/") + "/"):
        if not path.startswith(f"{top}/"):
            yield path
            top = path


def build(needed: PythonFiles, work: str) -> None:
    """Create a read-only root with these paths and enter it, in the current mount namespace. `work` becomes an empty
    folder, the mount point of each program's working directory."""
    kernel.mount(None, "/", None, kernel.REC | kernel.PRIVATE)
    present = [path for path in (*needed.paths, *DEVICES) if os.path.exists(path)]
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in present}
    root = next(folder for folder in _MOUNT_POINTS if os.path.isdir(folder))
    kernel.mount("tmpfs", root, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=755,size=4m")
    for link in filter(os.path.islink, _LINKS):
        os.symlink(os.readlink(link), root + link)
    for path, descriptor in sources.items():
        _bind(descriptor, root, path)
        os.close(descriptor)
    for folder in ("/proc", "/dev", work):
        os.makedirs(root + folder, exist_ok=True)
    # Named semaphores and shared memory become files of the working directory.
    if not os.path.lexists(f"{root}/dev/shm"):
        os.symlink(work, f"{root}/dev/shm")
    for folder in needed.hidden:
        if os.path.isdir(root + folder):
            kernel.mount("tmpfs", root + folder, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=755,size=4k")
    os.chdir(root)
    kernel.change_root()
    kernel.make_read_only("/")


def _bind(descriptor: int, root: str, path: str) -> None:
    """Bind a file or folder to its own path below the new root, unless a link already leads to it."""
    target, linked = root + path, filter(os.path.islink, _LINKS)
    if os.path.lexists(target) or any(path.startswith(f"{link}/") for link in linked):
        return  # /lib/x is /usr/lib/x, which is bound under that name
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    kernel.mount(f"/proc/self/fd/{descriptor}", target, None, kernel.BIND | kernel.REC)


def is_closed() -> bool:
    """Whether Python is in a folder that only its owner may enter."""
    standard = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    return any(not folder.stat().st_mode & stat.S_IXOTH for folder in (standard, *standard.parents))


def work_folder(needed: PythonFiles) -> str:
    """The writable folder of programs: /tmp, unless a needed path is in it."""
    paths = [f"{path}/" for path in needed.paths]
    return next(work for work in _WORK_FOLDERS if not any(path.startswith(f"{work}/") for path in paths))
