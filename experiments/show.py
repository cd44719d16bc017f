"""What the scripts of a single net found, on the terminal."""

import math
from pathlib import Path

LAYERS_BESIDE = 4  # columns of layers that a table of thresholds has room for
CONTENDERS = {
    "compact": "the file",
    "dense_numpy": "dense NumPy",
    "dense_jax": "dense JAX",
    "onnx": "ONNX Runtime",
    "onnx_int8": "ONNX Runtime int8",
}


def thresholds(choice, tolerance: float, folder: Path) -> None:
    """Prints a `thresholds.Choice` of a workdir, and the command that takes it on.

    Few layers stand beside each threshold, many in a table where it was cut.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"Noise off, on {choice.images}; unpruned {choice.unpruned:.4f}")
    layers = [layer.name for layer in choice.layers]
    beside = layers if len(layers) <= LAYERS_BESIDE else []
    names = ("threshold", "accuracy", "weights left", "compression", *beside)
    title = "Accuracy, and the sparsity of each layer (%)" if beside else "Accuracy"
    table = Table(*names, title=title)
    for row in choice.rows:
        sparsity = (f"{100 * row[f'sparsity/{name}']:.1f}" for name in beside)
        table.add_row(
            f"{row['threshold']:g}",
            f"{row['accuracy']:.4f}",
            f"{row['nonzero']}",
            f"{row['compression']:.1f}",
            *sparsity,
            style="bold" if row is choice.chosen else None,
        )
    console.print(table)
    if choice.chosen and not beside:
        table = Table("layer", "sparsity (%)", title="Each layer where it was cut")
        for name in layers:
            table.add_row(name, f"{100 * choice.chosen[f'sparsity/{name}']:.1f}")
        console.print(table)
    if choice.chosen is None:
        console.print(f"No threshold costs at most {tolerance:g} of accuracy.")
    else:
        console.print(
            f"Chosen: {choice.chosen['threshold']:g}, the lowest that costs at most "
            f"{tolerance:g} of accuracy. To make it a file:\n"
            f"  python scripts/compress.py --workdir={folder} --out=net.vnz "
            f"--threshold={choice.chosen['threshold']:g}",
            soft_wrap=True,
        )


def compression(report: dict) -> None:
    """Prints what `compress.compress` found: size, error, and time for a prediction."""
    from rich.console import Console

    console = Console()
    test = report["test"]
    _weights(console, report)
    for of, bits in report["mdl_bits"].items():
        whose = {"all": "the whole posterior", "left": "the posterior of what is left"}
        console.print(f"the KL of {whose[of]}: {bits / 8:,.0f} bytes")
    console.print(
        f"test error of {test['examples']}: all weights "
        f"{test['error/all_weights']:.2%}, pruned {test['error/pruned']:.2%}, the file "
        f"{test['error/file']:.2%}; file and quantized net differ on "
        f"{test['differ/file_and_quantized']}"
    )
    if test["classes/file"] == 1:
        console.print(
            "Careful: the file answers every test image alike. Noise is off in it, and "
            "the means that are left say nothing, as those of a variance layer do.",
            style="bold",
        )
    _latency(console, report["latency_ms"])


def foreign(report: dict) -> None:
    """Prints what `foreign.compress_model` found, with the same parts."""
    from rich.console import Console

    console = Console()
    _weights(console, report)
    found = report["agreement"]
    whose = "examples given" if found["given"] else "random inputs"
    console.print(
        f"verified against {report['model']} on {found['examples']} {whose}; another "
        f"class than the model's: pruned {found['differ/pruned']:.2%}, the file "
        f"{found['differ/file']:.2%}"
    )
    if "error/file" in found:
        names = (("model", "the model"), ("pruned", "pruned"), ("file", "the file"))
        errors = (f"{shown} {found[f'error/{name}']:.2%}" for name, shown in names)
        console.print(f"error: {', '.join(errors)}")
    if found["differ/pruned"] > 0.01:
        console.print(
            "Careful: pruning changed predictions, and nothing was trained after it. "
            "Prune less, or train on with the pruned weights held at zero.",
            style="bold",
        )
    _latency(console, report["latency_ms"])


def _weights(console, report: dict) -> None:
    """Weights and bytes of each form, and what is left of each layer."""
    from rich.table import Table

    weights, size = report["weights"], report["bytes"]
    table = Table("", "weights", "bytes", title=report["file"])
    table.add_row("dense, float32", f"{weights['all']:,}", f"{size['dense']:,}")
    if "onnx_int8" in size:
        table.add_row("ONNX, int8", f"{weights['all']:,}", f"{size['onnx_int8']:,}")
    table.add_row("non-zeros, float32", "", f"{size['nonzeros']:,}")
    table.add_row("CSR matrices", f"{weights['quantized']:,}", f"{size['csr']:,}")
    table.add_row("the file", f"{weights['quantized']:,}", f"{size['file']:,}")
    console.print(table)
    console.print(
        f"{size['all_weights_over_nonzeros']:.1f} times fewer weights, a file "
        f"{size['dense_over_file']:.1f} times smaller, "
        f"{size['file_per_weight']:.2f} bytes for each weight left, header included"
    )
    layers = ", ".join(
        f"{name} {count} units at {report['bits'][name]} bits"
        for name, count in report["units"].items()
    )
    console.print(f"left: {layers}")


def _latency(console, taken: dict) -> None:
    """Median times of all contenders, and where the file is not the fastest."""
    from rich.table import Table

    batches = {k: v for k, v in taken.items() if k.startswith("batch_")}
    names = [name for name in CONTENDERS if any(name in v for v in batches.values())]
    title = f"median ms for a batch, {taken['threads']} thread(s)"
    table = Table("batch", *(CONTENDERS[name] for name in names), title=title)
    slower = []
    for key, times in batches.items():
        batch = key.removeprefix("batch_")
        table.add_row(batch, *(f"{times[n]:.3f}" if n in times else "" for n in names))
        faster = [n for n in names if times.get(n, math.inf) < times["compact"]]
        if faster:
            others = ", ".join(CONTENDERS[n] for n in faster)
            slower.append(f"at batch {batch} than {others}")
    console.print(table)
    if slower:
        console.print(f"The file is slower {', and '.join(slower)}.")
