"""`hone convert` with the same arguments: --config, --dcp-ckpt-path, --hf-ckpt-path."""

import sys

from hone.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
