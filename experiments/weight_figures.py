"""Pictures of weights and of their log alpha: still, and over a training."""

import math
from pathlib import Path

import numpy as np

from experiments import style
from experiments.style import write_figure
from experiments.thresholds import Choice, Layer

PATCH = 100  # a dense layer is shown by a patch of this many units each way
GRID = 20  # a convolution by at most so many kernels each way
BINS = 60
COLUMNS = 4  # panels in a row
ANIMATED = 12  # layers, at most
LOW, HIGH = -12.0, 20.0  # of the histograms; what lies beyond is put into the last bins
KEY = (
    "inputs downwards, outputs across; blue: positive, red: negative, white: pruned or "
    "zero"
)


def save_choice(choice: Choice, path: Path, title: str = "") -> None:
    """Histograms of log alpha, and accuracy and sparsity against the threshold."""
    canvas, axes = _canvas(len(choice.layers) + 1, title)
    chosen = choice.chosen and choice.chosen["threshold"]
    for number, (layer, panel) in enumerate(zip(choice.layers, axes, strict=False)):
        _histogram(panel, layer, number)
        if chosen is not None:
            panel.axvline(chosen, color="#222222", ls="--", lw=1)
    panel = axes[len(choice.layers)]
    x = [row["threshold"] for row in choice.rows]
    for number, name in enumerate(("accuracy", "sparsity")):
        y = [row[name] for row in choice.rows]
        panel.plot(x, y, lw=1.4, label=name, **style.of(number))
    panel.axhline(
        choice.unpruned, color=style.colour(0), lw=0.8, ls=":", label="unpruned"
    )
    if chosen is not None:
        panel.axvline(chosen, color="#222222", ls="--", lw=1, label="chosen")
    panel.set_title("noise off, pruned above the threshold", fontsize=9)
    panel.set_xlabel(f"threshold of {choice.layers[0].axis}")
    panel.legend(frameon=False, fontsize=7)
    write_figure(canvas, path)


def save_weights(
    layers: list[Layer], path: Path, threshold: float = math.inf, title: str = ""
) -> None:
    """The means of each layer; those above the threshold are left white."""
    canvas, axes = _canvas(len(layers), f"{title}\n{KEY}".strip())
    for layer, panel in zip(layers, axes, strict=False):
        image = picture(layer, threshold)
        _show(panel, image, _reach(image))
        panel.set_title(_caption(layer, threshold), fontsize=9)
    write_figure(canvas, path)


def save_animation(
    frames: list[tuple[int, list[Layer]]],
    path: Path,
    threshold: float,
    title: str = "",
    frames_per_second: float = 4.0,
) -> None:
    """Weights (above) and log alpha (below) at each epoch, as a GIF.

    All frames have the same colours and axes, so that what changes is the net. Of a net
    of many layers `ANIMATED` are shown, evenly spaced.
    """
    count = len(frames[0][1])
    places = np.linspace(0, count - 1, min(ANIMATED, count)).astype(int)
    columns = min(COLUMNS, len(places))
    rows = math.ceil(len(places) / columns)
    canvas, axes = _canvas(2 * rows * columns, title, columns)
    above_below = axes.reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)
    for empty in above_below[len(places) :].ravel():
        empty.set_visible(False)
    key = KEY if count == len(places) else f"{len(places)} of {count} layers; {KEY}"
    by_layer = [[layers[place] for _, layers in frames] for place in places]
    reaches = [max(_reach(picture(one, threshold)) for one in of) for of in by_layer]
    most = [max(_counts(one).max() for one in of) for of in by_layer]

    def draw(number: int):
        frame = min(number, len(frames) - 1)
        for index, layer in enumerate(of[frame] for of in by_layer):
            above, below = above_below[index]
            above.clear()
            below.clear()
            _show(above, picture(layer, threshold), reaches[index])
            _histogram(below, layer, index)
            above.set_title(_caption(layer, threshold), fontsize=9)
            below.set_title("")
            below.set_ylim(0.5, 2 * most[index])
            below.axvline(threshold, color="#222222", ls="--", lw=1)
        canvas.suptitle(f"{title}\nepoch {frames[frame][0]}; {key}", fontsize=9)
        return []

    draw(len(frames) - 1)
    style.write_animation(canvas, draw, len(frames), path, frames_per_second)


def picture(layer: Layer, threshold: float) -> np.ndarray:
    """The means as one image, NaN where they are pruned.

    A dense layer [I, O] gives the patch in its middle; a convolution [kh, kw, I, O] its
    kernels, input channels downwards and output channels across, a NaN between them;
    those of a single input channel fill a square.
    """
    mean = np.where(layer.log_alpha <= threshold, layer.mean, np.nan)
    if mean.ndim == 2:
        rows, columns = (max(0, (n - PATCH) // 2) for n in mean.shape)
        return mean[rows : rows + PATCH, columns : columns + PATCH]
    kernels = np.pad(
        mean[:, :, :GRID, :GRID],
        ((0, 1), (0, 1), (0, 0), (0, 0)),
        constant_values=np.nan,
    )
    high, wide, inputs, outputs = kernels.shape
    if inputs == 1:
        across = math.ceil(math.sqrt(outputs))
        inputs = math.ceil(outputs / across)
        missing = ((0, 0),) * 3 + ((0, across * inputs - outputs),)
        kernels = np.pad(kernels, missing, constant_values=np.nan)
        outputs = across
        kernels = kernels.reshape(high, wide, inputs, outputs)
    return kernels.transpose(2, 0, 3, 1).reshape(inputs * high, outputs * wide)


def _caption(layer: Layer, threshold: float) -> str:
    left = int(np.sum(layer.log_alpha <= threshold))
    inputs, outputs = layer.mean.shape[-2:]
    most = PATCH if layer.mean.ndim == 2 else GRID
    units = "units" if layer.mean.ndim == 2 else "maps"
    shown = f"{min(most, inputs)} x {min(most, outputs)}"
    return (
        f"{layer.name}: {left} of {layer.log_alpha.size} left\n"
        f"shown: {shown} of {inputs} x {outputs} {units}"
    )


def _reach(image: np.ndarray) -> float:
    """The largest weight of a picture, which has the darkest colour."""
    kept = np.abs(image[np.isfinite(image)])
    return float(kept.max()) if kept.size and kept.max() > 0 else 1.0


def _show(panel, image: np.ndarray, reach: float) -> None:
    """The picture in a frame, without which one cannot see where an empty one ends."""
    panel.imshow(
        image,
        cmap="RdBu",
        vmin=-reach,
        vmax=reach,
        interpolation="nearest",
        aspect="equal",
    )
    panel.set(xticks=[], yticks=[])
    panel.set_xlabel(f"darkest: {reach:.2g}", fontsize=8)
    for spine in panel.spines.values():
        spine.set(visible=True, color="#bbbbbb", linewidth=0.6)


def _counts(layer: Layer) -> np.ndarray:
    """How many weights each bin of the histogram has."""
    values = np.clip(layer.log_alpha.ravel(), LOW, HIGH)
    return np.histogram(values, bins=BINS, range=(LOW, HIGH))[0]


def _histogram(panel, layer: Layer, number: int) -> None:
    edges = np.linspace(LOW, HIGH, BINS + 1)
    panel.stairs(_counts(layer), edges, color=style.colour(number), fill=True)
    panel.set_yscale("log")
    panel.set_ylim(bottom=0.5)
    panel.set_title(layer.name, fontsize=9)
    beyond = "(first and last bin: and beyond)"
    panel.set_xlabel(f"{layer.axis}\n{beyond}", fontsize=8)
    panel.set_ylabel("weights", fontsize=8)


def _canvas(count: int, title: str, columns: int = COLUMNS):
    import matplotlib

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    with matplotlib.rc_context(style.STYLE):
        size = (max(6.4, 3.2 * columns), 2.9 * rows + 0.5)
        canvas, axes = style.panels(count, columns, size, 110)
    canvas.suptitle(title, x=0.01, ha="left", fontsize=9)
    return canvas, axes
