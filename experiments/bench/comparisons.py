"""Which ways of training a net are measured, and what each is compared with."""

import dataclasses
from collections.abc import Iterator

from experiments.bench import timing
from experiments.bench.workloads import COMPILED, IN_TORCH, PLAIN, Size

FULL, HALF = "float32", "bfloat16"
LIBRARIES = OURS, THEIRS = ("vnets", "torch")
REMAT = "remat"


@dataclasses.dataclass(frozen=True)
class Way:
    """A case: who trains, which method, in which precision and in which form.

    Attributes:
      library: of LIBRARIES.
      method: of `workloads.METHODS`.
      precision: FULL or HALF.
      form: of PyTorch, of `workloads.FORMS`; of vnets "" or REMAT.
    """

    library: str
    method: str
    precision: str = FULL
    form: str = ""

    def __str__(self) -> str:
        """The name of the case."""
        half = self.precision if self.precision != FULL else ""
        parts = (f"{self.library} {self.method}", self.form, half)
        return ", ".join(filter(None, parts))

    def against(self, torch: dict[str, str]) -> dict[str, str]:
        """What a case of vnets is compared with, by the names of the columns.

        Args:
          torch: column to the case of PyTorch, of this method and precision.
        """
        if self.form == REMAT:
            return {"over without remat": str(dataclasses.replace(self, form=""))}
        others = {}
        if self.method != PLAIN:
            others["over deterministic"] = str(dataclasses.replace(self, method=PLAIN))
        if self.precision != FULL:
            others["over float32"] = str(dataclasses.replace(self, precision=FULL))
        return others | torch


COLUMNS = ("over deterministic", "over float32", "over without remat", "over PyTorch")


def ways(size: Size) -> Iterator[Way]:
    """All cases of a net: those of vnets, then those of PyTorch."""
    yield from (Way(OURS, method) for method in size.methods)
    yield from (Way(OURS, method, HALF) for method in size.half)
    yield from (Way(OURS, method, form=REMAT) for method in size.remat)
    for method in (m for m in IN_TORCH if m in size.methods):
        for form in size.forms:
            if form != COMPILED or method in size.compiled:
                yield Way(THEIRS, method, FULL, form)
                if method in size.half:
                    yield Way(THEIRS, method, HALF, form)


def product_label(library: str, precision: str) -> str:
    """The name of a case that measures the device's peak."""
    return f"{library} matmul, {precision}"


def finish(size: Size, product_flops: int, parts, times):
    """Rates, ratios and the overview, of what was measured.

    Args:
      size: what was measured.
      product_flops: operations of a call of the matrix products.
      parts: of the report so far.
      times: ms by round of each case.
    """
    peaks = {}
    for precision in (FULL, HALF):
        products = (product_label(library, precision) for library in LIBRARIES)
        shortest = [min(times[case]) for case in products if case in times]
        if shortest:
            peaks[precision] = 1e3 * product_flops / min(shortest)
    made = [way for way in ways(size) if str(way) in times]
    cases = {str(way): parts["cases"][str(way)] for way in made}
    for way in made:
        per_second = 1e3 / cases[str(way)]["median"]
        cases[str(way)]["images_per_second"] = size.batch * per_second
        rate = size.flops * per_second
        cases[str(way)]["of_peak"] = rate / peaks[way.precision]
    torch = _torch(made, times)
    compared = {
        way: way.against(torch.get((way.method, way.precision), {}))
        for way in made
        if way.library == OURS
    }
    pairs = [(str(way), o) for way, others in compared.items() for o in others.values()]
    best = {key: columns["over PyTorch"] for key, columns in torch.items()}
    pairs += [
        (case, best[PLAIN, precision])
        for (method, precision), case in best.items()
        if method != PLAIN and (PLAIN, precision) in best
    ]
    named = {f"{one} / {other}": (one, other) for one, other in pairs}
    ratios = timing.ratios(times, named)
    columns = [*COLUMNS, *(f"over PyTorch, {form}" for form in size.forms)]
    overview = {}
    for way, others in compared.items():
        case = cases[str(way)]
        overview[str(way).removeprefix(f"{OURS} ")] = {
            "ms per step": case["median"],
            "images per second": case["images_per_second"],
            "of the peak": case["of_peak"],
            "peak MiB": case["peak_mib"],
            **{
                column: ratios.get(f"{way} / {others.get(column)}", {}).get("median")
                for column in columns
            },
        }
    forms = f"PyTorch's fastest forms: {', '.join(best.values())}."
    gigaflops = {
        f"peak of matrix products, {precision}, GFLOP/s": rate / 1e9
        for precision, rate in peaks.items()
    }
    return {
        "cases": cases,
        "overview": overview,
        "ratios": ratios,
        "values": {"useful GFLOP of a step": size.flops / 1e9, **gigaflops},
        "notes": parts["notes"] + [forms] * bool(best),
    }


def _torch(made: list[Way], times) -> dict[tuple[str, str], dict[str, str]]:
    """(method, precision) to the cases of PyTorch: the fastest, and each layout."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for way in (way for way in made if way.library == THEIRS):
        key = way.method, way.precision
        found.setdefault(key, {})[f"over PyTorch, {way.form}"] = str(way)
    return {
        key: {"over PyTorch": timing.best(times, list(forms.values())), **forms}
        for key, forms in found.items()
    }
