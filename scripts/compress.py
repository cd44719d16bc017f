"""Turns a trained run into one small file, which predicts without JAX.

    python scripts/compress.py --workdir=runs/mine --out=net.vnz \
        [--threshold=3] [--bits=6] [--tolerance=0.001] [--threads=1]

Prunes as the run's config says, cuts out dead units, quantizes, codes; prints a report
of size, error and latency, and writes it beside the file as JSON. Use the file by
`vnets.compact.load("net.vnz")(images)`.
"""

import json
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, ranges

WORKDIR = cli.define_path("workdir", None, "Folder of the run.", required=True)
OUT = cli.define_path("out", None, "File to write, *.vnz.", required=True)
flags.register_validator(
    "out", lambda out: out is None or out.endswith(".vnz"), "it must end with .vnz"
)
flags.register_validator(
    "out",
    lambda out: out is None or Path(out).stem not in ("config", "record"),
    "config.json and record.json are a run's own: the report would replace them",
)
THRESHOLD = cli.define_number(
    "threshold",
    None,
    "Of the edit that prunes, that of units if they are cut; the config's by default.",
    ranges.ANY,
)
BITS = cli.define_number(
    "bits",
    None,
    "Of each weight; by default as few in each layer as --tolerance allows.",
    ranges.Range(2, 8, whole=True),
)
TOLERANCE = cli.define_number(
    "tolerance",
    0.001,
    "Share of predictions that quantizing may change, measured off the test set.",
    ranges.SHARE,
)
THREADS = cli.define_number("threads", 1, "For the latency.", ranges.COUNT)


def main(argv: list[str]) -> int:
    from experiments import compress, show
    from vnets import files

    cli.no_arguments(argv)
    out = Path(OUT.value)
    report = compress.compress(
        WORKDIR.value,
        out,
        threshold=THRESHOLD.value,
        bits=BITS.value,
        tolerance=TOLERANCE.value,
        threads=THREADS.value,
    )
    files.write_text(out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    show.compression(report)
    return 0


if __name__ == "__main__":
    cli.run(main)
