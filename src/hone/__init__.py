"""Hone: post-training for language models. See README.md; ARCHITECTURE.md says where each thing lives."""

__version__ = "0.1.0"
