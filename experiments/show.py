"""What the scripts of a single net found, on the terminal."""

from pathlib import Path

LAYERS_BESIDE = 4  # columns of layers that a table of thresholds has room for


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
    from rich.table import Table

    console = Console()
    weights, size, test = report["weights"], report["bytes"], report["test"]
    table = Table("", "weights", "bytes", title=report["file"])
    table.add_row("dense, float32", f"{weights['all']:,}", f"{size['dense']:,}")
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
    taken = report["latency_ms"]
    table = Table(
        "batch",
        "the file",
        "dense NumPy",
        "dense JAX",
        title=f"median ms for a batch, {taken['threads']} thread(s)",
    )
    for key, times in taken.items():
        if key.startswith("batch_"):
            names = ("compact", "dense_numpy", "dense_jax")
            cells = (f"{times[name]:.3f}" for name in names)
            table.add_row(key.removeprefix("batch_"), *cells)
    console.print(table)
