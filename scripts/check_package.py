"""Check the distribution in dist/: its wheel holds the files of src/hone, no others, and the source's version.

`--tag v1.2.3` also compares that version with the tag of a release.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from hone.version import __version__  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", help="the tag of a release, v and the version")
    tag = parser.parse_args().tag
    (wheel,) = (ROOT / "dist").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hone/")}
    problems = [f"{wheel.name} lacks {name}" for name in sorted(sources() - packed)]
    problems += [f"{wheel.name} has {name}, which src has not" for name in sorted(packed - sources())]
    if (printed := version_of(wheel)) != __version__:
        problems.append(f"{wheel.name} prints version {printed!r}; src/hone/version.py has {__version__}")
    if tag and tag != f"v{__version__}":
        problems.append(f"the tag is {tag}; src/hone/version.py has {__version__}")
    print("\n".join(problems) or f"{wheel.name}: complete, version {__version__}")
    return 1 if problems else 0


def sources() -> set[str]:
    """The files of the package, by their paths in a wheel."""
    paths = (ROOT / "src" / "hone").rglob("*")
    kept = (path for path in paths if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT / "src").as_posix() for path in kept}


def version_of(wheel: Path) -> str:
    """What `hone --version` prints when the wheel is all there is of Hone; its dependencies are this environment's."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, str(wheel)]
        subprocess.run(pip, check=True)
        code = f"import sys; sys.path.insert(0, {folder!r}); from hone.cli import main; main(['--version'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
        return done.stdout.strip().removeprefix("hone ") or done.stderr.strip()


if __name__ == "__main__":
    sys.exit(main())
