"""Compact files as each format version wrote them, and what they predict.

    python -m tests.golden_files

makes those of the newest version; once committed they are never made again. A file
that somebody has must be readable for ever, and a change of the format that reads its
own files back passes every other test.
"""

import json
from pathlib import Path

import numpy as np

from vnets import compact
from vnets.compact import codec

FOLDER = Path(__file__).parent / "golden"
EXPECTED = "expected.json"
# Of `compact_nets.NETS`: all kinds of steps that are new in the version.
NAMES = ("separable", "means")
NOISY = {"noisy": "separable"}  # name of the file: that of the net


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


def inputs(shape) -> np.ndarray:
    """Three examples without a generator of random numbers, which may change."""
    numbers = np.arange(3 * int(np.prod(shape))) * 37 % 101
    return (numbers / 101).reshape(3, *shape).astype(np.float32)


def make() -> None:
    """Writes the files of the current version.

    Raises:
      FileExistsError: there are files of it.
    """
    from tests.compact_nets import Same, case, noisy

    into = folder(codec.VERSION)
    into.mkdir(parents=True)
    found = {}
    for name in (*NAMES, *NOISY):
        graph = noisy(NOISY[name]) if name in NOISY else case(name)[0]
        net = compact.quantize(graph, 5, {"run": name, "epochs": 3, "det": 0.5})
        compact.save(into / f"{name}.vnz", net)
        predictor, x = compact.Predictor(net.graph(), "dense"), inputs(net.shape)
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
