"""The version of Hone, here and nowhere else: pyproject.toml and `hone --version` read it."""

__version__ = "0.1.0"
