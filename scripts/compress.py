"""Turns a trained net into one small file, which predicts without JAX.

    python scripts/compress.py --workdir=runs/mine --out=net.vnz \
        [--threshold=3] [--bits=6] [--tolerance=0.001] [--threads=1]
    python scripts/compress.py --model=net.onnx --out=net.vnz --prune=0.9
    python scripts/compress.py --model=net.safetensors --out=net.vnz --prune=each=0.9 \
        --chain="conv1 relu max_pool(2) flatten fc1 relu fc2" --example=example.npz

Of a run: prunes as its config says. Of a net from elsewhere, a chain of layers: holds
it to the example's outputs, and prunes by magnitude (docs/howto/shrink.md). Cuts out
dead units, quantizes, codes; prints a report of size, error and latency, and writes it
beside the file as JSON. Use the file by `vnets.compact.load("net.vnz")(images)`.
"""

import json
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, ranges

WORKDIR = cli.define_path("workdir", None, "Folder of the run.")
MODEL = cli.define_path("model", None, "*.onnx, or *.safetensors and its --chain.")
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


CHAIN = flags.DEFINE_string(
    "chain", None, "Of *.safetensors: the net in words, or the name of a .txt of them."
)
EXAMPLE = cli.define_path(
    "example", None, ".npz with inputs, and perhaps outputs and labels, of the model."
)
PRUNE = flags.DEFINE_string(
    "prune", None, "Share of the model's weights that go; each=SHARE; LAYER=SHARE,..."
)
INPUT_MEAN = cli.define_numbers("input_mean", "What the model's inputs are less, and")
INPUT_STD = cli.define_numbers("input_std", "divided by: the file does it by itself.")
OF = {"workdir": (THRESHOLD,), "model": (CHAIN, EXAMPLE, PRUNE, INPUT_MEAN, INPUT_STD)}


def main(argv: list[str]) -> int:
    from experiments import compress, foreign, show
    from vnets import files

    cli.no_arguments(argv)
    kind = cli.one_of({"workdir": WORKDIR, "model": MODEL}, OF)
    out = Path(OUT.value)
    options = {
        "bits": BITS.value,
        "tolerance": TOLERANCE.value,
        "threads": THREADS.value,
    }
    if kind == "workdir":
        options["threshold"] = THRESHOLD.value
        report = compress.compress(WORKDIR.value, out, **options)
    else:
        report = foreign.compress_model(
            MODEL.value,
            out,
            chain=CHAIN.value,
            example=EXAMPLE.value,
            prune=PRUNE.value,
            mean=INPUT_MEAN.value or (0.0,),
            std=INPUT_STD.value or (1.0,),
            **options,
        )
    files.write_text(out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    (show.compression if kind == "workdir" else show.foreign)(report)
    return 0


if __name__ == "__main__":
    cli.run(main)
