"""docs/glossary.md explains every suffix that names of tensors have in the source."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SUFFIX = re.compile(r"\b(?!lora_)[a-z][a-z_]*(_[NSPGTB][VKTE]?|_S[TN])\b")


def test_every_suffix_of_a_tensor_in_the_source_is_in_the_glossary() -> None:
    page = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    source = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "src" / "hone").rglob("*.py")]
    used = {suffix for text in source for suffix in SUFFIX.findall(text)}
    assert {"_N", "_S", "_BV"} <= used
    assert sorted(suffix for suffix in used if f"`{suffix}`" not in page) == []
