"""In place of `hone sft` where a test is about the search: a run whose loss is a formula. Not a test itself. It imports
nothing of Hone, to be quick.

val_loss = |log10(lr) + 3| + 1 / step + size / 1000, a row every `STAND_IN_PAUSE` seconds. lr above 0.5 crashes after a
row. A run that was killed goes on with the step after its last row. For `hone grpo` the column is val_accuracy, and for
an lr below 1e-4 val_reward.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

PAUSE = float(os.environ.get("STAND_IN_PAUSE", "0.01"))


def end_with_search() -> None:
    """As `hone.tune.trial_process` does: standard input closes when the search ends."""
    os.read(0, 1)
    os.kill(0, signal.SIGKILL)


def main() -> None:
    threading.Thread(target=end_with_search, daemon=True).start()
    given = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
    folder = Path(given["checkpointing.checkpoint_dir"])
    lr = float(given["policy.optimizer.kwargs.lr"])
    file = folder / "metrics.csv"
    (folder / "config.yaml").write_text(f"checkpointing: {{checkpoint_dir: {folder}}}\nlr: {lr}\n")
    (folder / "step_9").mkdir(exist_ok=True)
    algorithm = sys.argv[1]
    column = "val_loss" if algorithm == "sft" else "val_reward" if lr < 1e-4 else "val_accuracy"
    if not file.exists():
        file.write_text(f"step,{column}\n")
    with open(folder / "starts", "a") as starts:
        starts.write(f"{os.getpid()}\n")
    done = len(file.read_text().splitlines()) - 1
    for step in range(done + 1, int(given[f"{algorithm}.max_num_steps"]) + 1):
        time.sleep(PAUSE)
        size = int(given.get("policy.train_global_batch_size", 0))
        value = abs(math.log10(lr) + 3) + 1 / step + size / 1000
        with open(file, "a") as rows:
            rows.write(f"{step},{value}\n")
        if lr > 0.5:
            sys.exit("error: loss is nan at update 1")


if __name__ == "__main__":
    main()
