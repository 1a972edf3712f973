"""What computed spellings and rules may look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hone.config.kinds import section_of
from hone.config.nested import MISSING, split_path

if TYPE_CHECKING:
    from hone.config.loading.translation import Translation


class View:
    """A `computed.Context` of a translation, seen from a layer."""

    def __init__(self, translation: Translation, layer: int) -> None:
        self._translation, self._layer = translation, layer
        self.section = section_of(translation.algorithm)

    def ours(self, key: str) -> Any:
        value = self._translation.value(split_path(key))
        return None if value is MISSING else value

    def written(self, key: str) -> Any:
        return self._translation.value(split_path(key))

    def given(self, key: str) -> bool:
        return self._translation.layer_of(split_path(key)) >= self._layer
