"""Puts a run's net among those of `vnets.compact.pretrained`, with its record.

    python scripts/train.py --config=configs/sparse_vd.py:lenet5_sparse_vd,quick \
        --workdir=runs/mine
    python scripts/shelve.py --workdir=runs/mine --name=digits_lenet5_sparse_vd
    python scripts/shelve.py --workdir=runs/variance --name=lenet5_variance --noise

Prunes as the run's config says, or keeps the noise of the weights, which a variance
network predicts by. The run must be of committed code. Writes into
vnets/compact/nets/: commit what is new there.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, ranges

WORKDIR = cli.define_path("workdir", None, "Folder of the run.", required=True)
NAME = flags.DEFINE_string("name", None, "To ask for the net by.", required=True)
flags.register_validator(
    "name",
    lambda name: name is None or name.replace("_", "").isalnum(),
    "it must be of letters, digits and _",
)
NOISE = flags.DEFINE_bool("noise", False, "Keep the noise, and prune nothing.")
THRESHOLD = cli.define_number(
    "threshold", None, "Of the edit that prunes; the config's by default.", ranges.ANY
)
BITS = cli.define_number(
    "bits",
    None,
    "Of each weight; by default 6 with noise, else as few as change 0.1 %.",
    ranges.Range(2, 8, whole=True),
)


def main(argv: list[str]) -> int:
    from experiments import shelf
    from experiments.config_files import ConfigError

    cli.no_arguments(argv)
    if NOISE.value and THRESHOLD.value is not None:
        raise ConfigError("--threshold prunes, --noise does not: give one of them")
    told = shelf.shelve(
        WORKDIR.value,
        NAME.value,
        noise=NOISE.value,
        threshold=THRESHOLD.value,
        bits=BITS.value,
    )
    print(f"{NAME.value}: {told['bytes']:,} bytes, accuracy {told['accuracy']}")
    return 0


if __name__ == "__main__":
    cli.run(main)
