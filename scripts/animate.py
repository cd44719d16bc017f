"""Turns the probes of any run into an animated figure, one frame for each epoch.

    python scripts/animate.py --run=runs/phase_transition/short/accelerated/seed0 \
        [--output=transition.gif]

RUN is a workdir (its metrics.jsonl, also of a run that is still going) or a record.
All that the run measured every probed epoch is drawn: accuracies, the terms of the
ELBO, log alpha of each layer, and what its experiment adds; a panel for each unit.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.ranges import Range

RUN = cli.define_path("run", None, "Workdir or record.", required=True)
OUTPUT = flags.DEFINE_string("output", "", "GIF to write; by default beside the run.")
flags.register_validator(
    "output", lambda out: not out or out.endswith(".gif"), "it must end with .gif"
)
FRAMES = cli.define_number("frames", 4.0, "Frames a second.", Range(0.1, 100.0))


def main(argv: list[str]) -> int:
    from experiments import animation

    cli.no_arguments(argv)
    source = Path(RUN.value)
    rows = animation.history(source)
    default = source / "probes.gif" if source.is_dir() else source.with_suffix(".gif")
    path = Path(OUTPUT.value) if OUTPUT.value else default
    animation.save(rows, path, title=str(source), frames_per_second=FRAMES.value)
    print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
