"""Makes `tests/` importable, so that areas share `tiny` (models and samples of a few thousand numbers)."""

import signal

# A shell starts what it puts into the background deaf to Ctrl-C, and so would be every run that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
