"""`hone tune` with the stand-in for its trials. Not a test itself.  python searching.py ARGUMENTS OF hone tune"""

from __future__ import annotations

import sys
from pathlib import Path

from hone.cli import main
from hone.tune import trial

trial.COMMAND = (sys.executable, str(Path(__file__).with_name("stand_in.py")))

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
