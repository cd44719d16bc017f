"""Writes what the page in `docs/demo` shows, from finished runs and from `results/`.

    python scripts/train.py --config=configs/demo.py:variance,short --workdir=runs/demo
    python scripts/demo.py --workdir=runs/demo [--bits=6] [--out=docs/demo]
    python scripts/demo.py --part=decoder --workdir=runs/vae/short/vae_2_sparse/seed0

The first writes the net that reads digits. The second writes the decoder that makes
them, of the run whose record lies in `results/`.

Look at the page with `python -m http.server --directory docs/demo`.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, ranges

WORKDIR = cli.define_path("workdir", None, "Folder of the run.", required=True)
PART = flags.DEFINE_enum("part", "net", ["net", "decoder"], "Which net to write.")
OUT = cli.define_path("out", "docs/demo", "Folder of the page.")
BITS = cli.define_number(
    "bits", 6, "Of each weight and deviation.", ranges.Range(2, 8, whole=True)
)


def main(argv: list[str]) -> int:
    from experiments import demo

    cli.no_arguments(argv)
    write, name, found = demo.write, "file", "accuracy"
    if PART.value == "decoder":
        write, name, found = demo.write_decoder, "decoder_file", "elbo"
    file = write(WORKDIR.value, OUT.value, BITS.value)[name]
    print(f"{OUT.value}: a net of {file['bytes']} bytes, {found} {file[found]}")
    return 0


if __name__ == "__main__":
    cli.run(main)
