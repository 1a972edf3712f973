"""SFT -> DPO on the embedded task: greedy accuracy on the 512 held-out word problems, before and after.

    python benchmarks/preferences_on_word_problems.py --seeds 1 2 3        from random weights: SFT, then DPO
    python benchmarks/preferences_on_word_problems.py --losses             from hone/tiny-sft: every loss, one seed

Both print one line for each run. The first takes about two minutes a seed on a free core, the second half a minute a
loss.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from hone import evaluation
from hone.config import load
from hone.config.schema.dpo import LOSSES
from hone.export import convert, locate
from hone.training import supervised

SETTINGS: dict[str, list[str]] = {
    "ipo": ["dpo.beta=1.0"],  # means over tokens: 1 / (2 beta) is the margin of each token
    "sigmoid_norm": ["dpo.beta=1.0"],
    "hinge": ["dpo.beta=0.3"],
    "robust": ["dpo.label_smoothing=0.05"],
    "simpo": ["dpo.beta=2.0"],
    "orpo": ["dpo.beta=1.0", "dpo.sft_loss_weight=1.0", "dpo.sft_average_log_probs=true"],
    "cpo": ["dpo.sft_loss_weight=1.0"],
}
"""What a loss needs besides the recipe, whose beta of 0.1 is for sums of log-probabilities."""


def run(kind: Any, overrides: list[str], out: Path) -> Path:
    """Train, and give the model as a folder."""
    supervised.main(load(kind, None, [*overrides, f"checkpointing.checkpoint_dir={out}"]))
    return convert(*locate(out), out / "hf")


def accuracy(model: str | Path) -> float:
    """Greedy, on the test split."""
    recipe = load("eval", None, [])
    config = recipe.config
    config.generation.model_name = config.tokenizer.name = str(model)
    return float(evaluation.main(recipe)["score"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--losses", nargs="*", metavar="NAME")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in options.seeds:
            first = run("sft", [f"sft.seed={seed}"], folder / f"sft{seed}")
            second = run(
                "dpo",
                [
                    f"dpo.seed={seed}",
                    f"policy.model_name={first}",
                    f"policy.tokenizer.name={first}",
                    *_recipe(),
                ],
                folder / f"dpo{seed}",
            )
            print(
                f"RESULT seed {seed}: SFT {accuracy(first):.4f}, then DPO {accuracy(second):.4f}", flush=True
            )
        for loss in LOSSES if options.losses == [] else options.losses or []:
            overrides = [f"dpo.preference_loss={loss}", *SETTINGS.get(loss, [])]
            print(
                f"RESULT {loss}: {accuracy(run('dpo', overrides, folder / loss)):.4f}  {overrides[1:]}",
                flush=True,
            )


def _recipe() -> list[str]:
    """The embedded recipe's settings, which a model of one's own does not get by itself."""
    return [
        "policy.train_global_batch_size=32",
        "policy.train_micro_batch_size=32",
        "policy.max_total_sequence_length=128",
        "policy.precision=float32",
        "policy.optimizer.kwargs={lr: 1.0e-4, weight_decay: 0.0, betas: [0.9, 0.999], eps: 1.0e-8}",
        "dpo.beta=0.1",
        "dpo.max_num_steps=125",
        "dpo.val_period=25",
        "dpo.val_batches=-1",
        "dpo.val_at_end=true",
        "checkpointing.save_period=25",
        "checkpointing.keep_top_k=1",
    ]


if __name__ == "__main__":
    main()
