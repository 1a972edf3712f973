"""The command line. Nothing heavy is imported here: `hone --help` and a mistyped command answer at once."""

from hone.cli.commands import main

__all__ = ["main"]
