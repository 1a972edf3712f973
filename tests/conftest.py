"""Makes `tests/` importable, so that areas share `tiny` (models and samples of a few thousand numbers)."""
