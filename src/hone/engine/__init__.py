"""Execution back ends; `build` picks one from the configuration."""

from hone.engine.base import Engine
from hone.engine.build import build, check

__all__ = ["Engine", "build", "check"]
