"""The built-in reward functions (see builtin.py). They run in reward workers and import no torch."""
