"""Helps to choose the threshold of log alpha at which a trained net is pruned.

Where the run's config cuts units, or only units have a log alpha (dropout whose rate is
learned), it is that of units, else that of weights.

    python scripts/threshold.py --workdir=runs/sparse_vd/short/lenet5_sparse_vd/seed0 \
        [--tolerance=0.001] [--animate]

Writes into the workdir (or --output): threshold.png (histograms of log alpha, accuracy
and sparsity against the threshold), weights.png, threshold.json with all numbers, and
with --animate weights.gif over the checkpoints that `train.py --keep_every` kept. The
chosen threshold is the lowest whose accuracy is within the tolerance of the unpruned
net's, on validation images; the test set is not looked at.
"""

import json
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.ranges import SHARE

WORKDIR = cli.define_path("workdir", None, "Workdir of a run.", required=True)
OUTPUT = flags.DEFINE_string("output", "", "Folder; the workdir by default.")
TOLERANCE = cli.define_number("tolerance", 0.001, "Accuracy that may be lost.", SHARE)
ANIMATE = flags.DEFINE_bool("animate", False, "Also draw the weights over training.")


def main(argv: list[str]) -> int:
    from experiments import show, thresholds, weight_figures
    from vnets import files

    cli.no_arguments(argv)
    folder = Path(WORKDIR.value)
    output = Path(OUTPUT.value) if OUTPUT.value else folder
    frames = thresholds.over_training(folder) if ANIMATE.value else []
    choice = thresholds.choose_for(folder, TOLERANCE.value)
    limit = 3.0 if choice.chosen is None else choice.chosen["threshold"]
    title = str(folder)
    weight_figures.save_choice(choice, output / "threshold.png", title)
    weight_figures.save_weights(choice.layers, output / "weights.png", limit, title)
    numbers = {
        "images": choice.images,
        "unpruned": choice.unpruned,
        "chosen": choice.chosen,
        "rows": choice.rows,
    }
    files.write_text(output / "threshold.json", json.dumps(numbers, indent=1))
    written = ["threshold.png", "weights.png", "threshold.json"]
    if frames:
        weight_figures.save_animation(frames, output / "weights.gif", limit, title)
        written.append("weights.gif")
    show.thresholds(choice, TOLERANCE.value, folder)
    print(f"Written into {output}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
