"""`hone grpo` with the same arguments."""

import sys

from hone.cli import main

if __name__ == "__main__":
    sys.exit(main(["grpo", *sys.argv[1:]]))
