"""Writes what the page in `docs/demo` shows, from a finished run and from `results/`.

    python scripts/train.py --config=configs/demo.py:variance,short --workdir=runs/demo
    python scripts/demo.py --workdir=runs/demo [--bits=6] [--out=docs/demo]

Look at the page with `python -m http.server --directory docs/demo`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, ranges

WORKDIR = cli.define_path("workdir", None, "Folder of the run.", required=True)
OUT = cli.define_path("out", "docs/demo", "Folder of the page.")
BITS = cli.define_number(
    "bits", 6, "Of each weight and deviation.", ranges.Range(2, 8, whole=True)
)


def main(argv: list[str]) -> int:
    from experiments import demo

    cli.no_arguments(argv)
    file = demo.write(WORKDIR.value, OUT.value, BITS.value)["file"]
    print(f"{OUT.value}: a net of {file['bytes']} bytes, {file['accuracy']}")
    return 0


if __name__ == "__main__":
    cli.run(main)
