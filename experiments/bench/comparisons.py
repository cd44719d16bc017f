"""What training steps are compared with: names of cases, ratios and the overview."""

from collections.abc import Iterator

from experiments.bench import timing
from experiments.bench.workloads import COMPILED, IN_TORCH, Size

FULL, HALF = "float32", "bfloat16"
PLAIN = "deterministic"
LIBRARIES = ("vnets", "torch")


def label(method: str, precision: str = FULL, remat: bool = False) -> str:
    """The name of a case of vnets."""
    parts = [f"vnets {method}", precision * (precision != FULL), "remat" * remat]
    return ", ".join(part for part in parts if part)


def torch_label(method: str, form: str, precision: str = FULL) -> str:
    """The name of a case of PyTorch."""
    return f"torch {method}, {form}" + f", {precision}" * (precision != FULL)


def product_label(library: str, precision: str) -> str:
    """The name of a case that measures the device's peak."""
    return f"{library} matmul, {precision}"


def ours(size: Size) -> Iterator[tuple[str, str, bool]]:
    """Method, precision and remat of each case of vnets."""
    yield from ((method, FULL, False) for method in size.methods)
    yield from ((method, HALF, False) for method in size.half)
    yield from ((method, FULL, True) for method in size.remat)


def theirs(size: Size) -> Iterator[tuple[str, str, str]]:
    """Method, form and precision of each case of PyTorch."""
    for method in (m for m in IN_TORCH if m in size.methods):
        for form in size.forms:
            if form != COMPILED or method in size.compiled:
                yield method, form, FULL
                if method in size.half:
                    yield method, form, HALF


def finish(size: Size, product_flops: int, parts, times):
    """Rates, ratios and the overview, of what was measured.

    Args:
      size: what was measured.
      product_flops: operations of a call of the matrix products.
      parts: of the report so far.
      times: ms by round of each case.
    """
    best = _best(size, times)
    peaks = {
        precision: 1e3 * product_flops / min(shortest)
        for precision in (FULL, HALF)
        if (shortest := _shortest(times, precision))
    }
    cases = {n: one for n, one in parts["cases"].items() if "matmul" not in n}
    for case, summary in cases.items():
        per_second = 1e3 / summary["median"]
        peak = peaks[HALF if HALF in case else FULL]
        summary["images_per_second"] = size.batch * per_second
        summary["of_peak"] = size.flops * per_second / peak
    ratios = timing.ratios(times, _pairs(size, best))
    notes = parts["notes"]
    if best:
        forms = ", ".join(best.values())
        notes.append(f"PyTorch's fastest forms: {forms}.")
    return {
        "cases": cases,
        "overview": _overview(size, cases, ratios, best),
        "ratios": ratios,
        "values": {
            "useful GFLOP of a step": size.flops / 1e9,
            **{
                f"peak of matrix products, {precision}, GFLOP/s": rate / 1e9
                for precision, rate in peaks.items()
            },
        },
        "notes": notes,
    }


def _shortest(times, precision: str) -> list[float]:
    """Of each library the shortest call of the matrix products."""
    named = (product_label(library, precision) for library in LIBRARIES)
    return [min(times[case]) for case in named if case in times]


def _best(size: Size, times) -> dict[tuple[str, str], str]:
    """(method, precision) to the fastest case of PyTorch, of those measured."""
    found: dict[tuple[str, str], list[str]] = {}
    for method, form, precision in theirs(size):
        case = torch_label(method, form, precision)
        if case in times:
            found.setdefault((method, precision), []).append(case)
    return {key: timing.best(times, names) for key, names in found.items()}


def _pairs(size: Size, best) -> dict[str, tuple[str, str]]:
    """Pairs of cases whose times are compared, by the names of the ratios."""
    pairs = []
    for method, precision, remat in ours(size):
        case, key = label(method, precision, remat), (method, precision)
        pairs += [
            (case, other) for other in _compared(size, *key, remat, best).values()
        ]
        if method != PLAIN and not remat and {key, (PLAIN, precision)} <= set(best):
            pairs.append((best[key], best[PLAIN, precision]))
    return {f"{one} / {other}": (one, other) for one, other in pairs}


def _compared(
    size: Size, method: str, precision: str, remat: bool, best
) -> dict[str, str]:
    """What a case of vnets is compared with, by the names of the columns."""
    if remat:
        return {"over without remat": label(method)}
    others = {}
    if method != PLAIN:
        others["over deterministic"] = label(PLAIN, precision)
    if precision != FULL:
        others["over float32"] = label(method)
    if (method, precision) in best:
        others["over PyTorch"] = best[method, precision]
        for form in (form for form in size.forms if form != COMPILED):
            other = torch_label(method, form, precision)
            others[f"over PyTorch, {form}"] = other
    return others


def _overview(size: Size, found, ratios, best) -> dict[str, dict[str, float | None]]:
    """A row for each method and precision of vnets: what a reader asks first."""
    columns = ["over deterministic", "over float32", "over without remat"]
    columns += ["over PyTorch", *(f"over PyTorch, {form}" for form in size.forms)]
    rows = {}
    for method, precision, remat in ours(size):
        case = label(method, precision, remat)
        if case not in found:
            continue
        compared = _compared(size, method, precision, remat, best)
        rows[case.removeprefix("vnets ")] = {
            "ms per step": found[case]["median"],
            "images per second": found[case]["images_per_second"],
            "of the peak": found[case]["of_peak"],
            "peak MiB": found[case]["peak_mib"],
            **{
                column: ratios.get(f"{case} / {compared.get(column)}", {}).get("median")
                for column in columns
            },
        }
    return rows
