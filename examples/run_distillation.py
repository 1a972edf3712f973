"""`hone distill` with the same arguments."""

import sys

from hone.cli import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
