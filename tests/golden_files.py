"""Compact files as each format version wrote them, and what they predict.

    python -m tests.golden_files

makes those of the newest version that are not there; once committed they are never made
again. A file
that somebody has must be readable for ever, and a change of the format that reads its
own files back passes every other test.
"""

import json
from pathlib import Path

import numpy as np

from vnets import compact
from vnets.compact import codec
from vnets.plan.sequences import embedding

FOLDER = Path(__file__).parent / "golden"
EXPECTED = "expected.json"
# Of `compact_nets.NETS`: all kinds of steps that are new in the version.
NAMES = ("growing",)
NOISY = {"noisy": "growing"}  # name of the file: that of the net
TOKENS = ("lstm", "gru", "transformer")  # of `sequence_nets.NETS`, in version 3


def versions() -> list[int]:
    """Those that there are files of."""
    return sorted(int(path.name.removeprefix("v")) for path in FOLDER.iterdir())


def folder(version: int) -> Path:
    return FOLDER / f"v{version}"


def expected(version: int) -> dict:
    """name: {"logits": [3, K], "nonzeros": {layer: number}, "about": {...}}.

    Of noisy nets also "draw": [3, K], where all noise is 1.
    """
    return json.loads((folder(version) / EXPECTED).read_text(encoding="utf-8"))


def inputs(net) -> np.ndarray:
    """Three examples without a generator of random numbers, which may change."""
    numbers = (np.arange(3 * int(np.prod(net.shape))) * 37 % 101).reshape(3, *net.shape)
    first = embedding(net.plan)
    if first is None:
        return (numbers / 101).astype(np.float32)
    return numbers % first.vocabulary


def make() -> None:
    """Writes the files of the current version that are not there."""
    from tests.compact_nets import Same, case, noisy

    into = folder(codec.VERSION)
    into.mkdir(parents=True, exist_ok=True)
    found = expected(codec.VERSION) if (into / EXPECTED).exists() else {}
    for name in (*NAMES, *NOISY):
        if name in found:
            continue
        graph = noisy(NOISY[name]) if name in NOISY else case(name)[0]
        net = compact.quantize(graph, 5, {"run": name, "epochs": 3, "det": 0.5})
        compact.save(into / f"{name}.vnz", net)
        predictor, x = compact.Predictor(net.graph(), "dense"), inputs(net)
        found[name] = {
            "logits": _digits(predictor(x)),
            "nonzeros": net.nonzeros(),
            "about": dict(net.about),
        }
        if name in NOISY:
            found[name]["draw"] = _digits(predictor(x, Same()))
    text = json.dumps(found, indent=1) + "\n"
    (into / EXPECTED).write_text(text, encoding="utf-8")


def _digits(logits: np.ndarray) -> list[list[float]]:
    return [[float(f"{y:.6g}") for y in row] for row in logits]


if __name__ == "__main__":
    make()
