"""Rows in, token sequences out: sources, row formats, chat templates, resumable order, packing plans."""
