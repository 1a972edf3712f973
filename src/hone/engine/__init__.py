"""The machines under the verbs. `build` is the only place that knows which implementation a run gets."""

from hone.engine.build import Engine, build, check

__all__ = ["Engine", "build", "check"]
