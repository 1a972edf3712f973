"""One algorithm, one short file: its advantage, its loss, its step. No ray, no torch.distributed, no vLLM here."""
