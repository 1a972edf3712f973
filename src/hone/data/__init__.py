"""Rows in, token sequences out: sources, row formats, chat templates and masks, resumable order, packing plans."""
