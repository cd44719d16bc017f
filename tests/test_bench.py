"""The benchmarks run in their quick form, and the README is what the JSON gives.

No time is asserted: a test machine is busy.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from claims import every
from jax import random

from experiments.bench import (
    comparisons,
    figures,
    forms,
    measuring,
    report,
    suite,
    timing,
    torch_nets,
    workloads,
)
from vnets import nets
from vnets.layers import TRAIN
from vnets.nets.resnet import ResNet

ROOT = Path(report.__file__).resolve().parents[2]
QUICK = tuple(name for name in suite.MODULES if name != "forms")
# forms is the LRT step of LeNet-5 compiled five times over: a minute of its own.
COMMITTED = ROOT / "results" / "bench"
PLAIN = "vnets deterministic"
ALONE = {"peak_mib": 1.5, "compile_seconds": 2.5}


def _numbers(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _numbers(value)
    elif isinstance(tree, int | float):
        yield tree


@pytest.fixture
def alone(monkeypatch):
    """Children answer at once; that they can is tested with a child."""
    monkeypatch.setattr(measuring, "ask", lambda *_: ALONE)


@pytest.fixture(scope="module")
def tiny():
    """The report of all methods on a perceptron, without PyTorch, and what was said."""
    said = []
    size = workloads.Size(nets.MLP((4,), 3), (3, 3, 1), 2, steps=2, forms=("NCHW",))
    workload = dataclasses.replace(workloads.WORKLOADS["lenet5"], sizes={"quick": size})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)  # as where it is not installed
        patch.setattr(measuring, "ask", lambda *_: ALONE)
        patch.setitem(workloads.WORKLOADS, "lenet5", workload)
        measured = report.measure("lenet5", quick=True, rounds=3, say=said.append)
    return json.loads(json.dumps(measured)), said


def test_every_method_and_precision_has_a_row(tiny):
    measured, _ = tiny
    halves = {f"vnets {m}, bfloat16" for m in ("deterministic", "LRT")}
    methods = {f"vnets {method}" for method in workloads.METHODS}
    assert set(measured["cases"]) == methods | halves | {"vnets LRT, remat"}
    assert {f"vnets {row}" for row in measured["overview"]} == set(measured["cases"])
    overview = measured["overview"]
    assert overview["deterministic"]["over deterministic"] is None
    assert overview["LRT, bfloat16"]["over float32"] > 0
    assert overview["LRT, remat"]["over without remat"] > 0
    first, *others = measured["cases"].values()
    assert first.items() >= ALONE.items()
    for case in others:  # a quick run asks one child only
        assert case["peak_mib"] is None
        assert case["compile_seconds"] > 0
    for part in ("cases", "ratios", "values", "overview"):
        assert every(math.isfinite(x) for x in _numbers(measured[part]))
    assert measured["rounds"] == 3
    assert measured["device"]["platform"] == "cpu"


def test_rates_are_of_the_useful_operations_of_a_step(tiny):
    measured, _ = tiny
    case = measured["cases"]["vnets LRT, bfloat16"]
    flops = 2 * 3 * 2 * (9 * 4 + 4 * 3)  # add, thrice forward, batch, weights
    assert measured["values"]["useful GFLOP of a step"] == pytest.approx(flops / 1e9)
    peak = measured["values"]["peak of matrix products, bfloat16, GFLOP/s"]
    rate = flops / (1e-3 * case["median"]) / 1e9
    assert case["of_peak"] == pytest.approx(rate / peak)
    assert case["images_per_second"] == pytest.approx(2e3 / case["median"])
    assert measured["settings"]["weights"] == 9 * 4 + 4 + 4 * 3 + 3


def test_overhead_is_over_the_deterministic_step_of_the_same_precision(tiny):
    measured, _ = tiny
    for case, plain in (
        ("vnets LRT", PLAIN),
        ("vnets LRT, bfloat16", f"{PLAIN}, bfloat16"),
    ):
        row = measured["overview"][case.removeprefix("vnets ")]
        ratio = measured["ratios"][f"{case} / {plain}"]["median"]
        assert row["over deterministic"] == ratio


def test_missing_torch_is_said_and_the_rest_is_measured(tiny):
    measured, said = tiny
    assert "'.[bench]'" in torch_nets.MISSING
    assert torch_nets.MISSING in said
    assert torch_nets.MISSING in measured["notes"]


def test_readme_is_generated_and_names_every_case_and_the_device(tiny, tmp_path):
    measured, _ = tiny
    report.save(tmp_path, measured)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert report.read_all(tmp_path) == [measured]
    assert text == report.markdown([measured])
    assert text.count(report.device(measured)) == 1
    for row in (*measured["cases"], *measured["overview"]):
        assert f"| {row} |" in text
    assert (tmp_path / "lenet5.png").read_bytes().startswith(b"\x89PNG")
    assert "mean nothing" in text


def test_figure_of_curves_takes_the_overview():
    rows = {f"S = {s}": {"a": 1.0 * s, "b": 2.0 + s} for s in (1, 5)}
    drawn = figures.curves({"overview": rows, "unit": "ms"}, "title")
    lines = {line.get_label(): line.get_xydata() for line in drawn.axes[0].lines}
    np.testing.assert_allclose(lines["a"], [[1, 1], [5, 5]])
    np.testing.assert_allclose(lines["b"], [[1, 3], [5, 7]])


def test_sizes_are_for_the_device(monkeypatch):
    for workload in workloads.WORKLOADS.values():
        assert set(workload.sizes) == {"quick", "cpu", "accelerator"}
        for size in workload.sizes.values():
            assert set(size.half) | set(size.remat) <= set(size.methods)
            if "variance" in size.methods:
                layers = workload.kinds(size.net, "variance")
                assert 0 < len(layers) < len(size.net.layers)
            assert set(workload.kinds(size.net, "LRT")) == set(size.net.layers)
            if size is not workload.sizes["quick"]:  # both layouts, both precisions
                assert {"NCHW", "channels_last"} <= set(size.forms)
                assert "deterministic" in size.half
    assert workloads.device_kind(quick=False) == "cpu"
    monkeypatch.setattr(workloads.jax, "default_backend", lambda: "gpu")
    vgg = workloads.WORKLOADS["vgg"].size(quick=False)
    assert vgg.batch >= 1024
    assert vgg.flops == 6 * 1024 * 313_463_808  # 3 x 3 taps of VGG-16 at 32 x 32


def test_pytorch_is_compared_by_precision_in_each_layout_and_its_fastest():
    size = workloads.Size(
        nets.MLP((4,), 3),
        (3, 3, 1),
        2,
        methods=("deterministic", "LRT"),
        half=("deterministic",),
        remat=("LRT",),
        forms=("NCHW", "channels_last"),
    )
    names = [str(way) for way in comparisons.ways(size)]
    products = [
        comparisons.product_label("vnets", precision)
        for precision in ("float32", "bfloat16")
    ]
    times = {name: [2.0 + i] for i, name in enumerate([*names, *products])}
    times["torch deterministic, channels_last, bfloat16"] = [1.0]
    cases = {name: {"median": ms, "peak_mib": None} for name, [ms] in times.items()}
    found = comparisons.finish(size, 10, {"cases": cases, "notes": []}, times)
    assert set(found["cases"]) == set(names)
    for case, best in (
        ("deterministic", "torch deterministic, NCHW"),
        ("deterministic, bfloat16", "torch deterministic, channels_last, bfloat16"),
        ("LRT", "torch LRT, NCHW"),
    ):
        row, [mine] = found["overview"][case], times[f"vnets {case}"]
        half = ", bfloat16" * ("bfloat16" in case)
        for form in size.forms:
            other = f"torch {case.removesuffix(half)}, {form}{half}"
            assert row[f"over PyTorch, {form}"] == mine / times[other][0]
        assert row["over PyTorch"] == mine / times[best][0]
        assert best in found["notes"][0]
    assert "torch LRT, NCHW / torch deterministic, NCHW" in found["ratios"]
    remat = found["overview"]["LRT, remat"]
    assert remat["over PyTorch"] is None
    assert remat["over without remat"] == times["vnets LRT, remat"][0] / 3.0


def test_optional_cases_that_fail_are_notes(alone):
    def fail():
        raise RuntimeError("no compiler here\nat all")

    def succeed():
        return timing.Ready(lambda: None)

    def measured(**cases):
        pairs = {"b / a": ("b", "a")}
        benchmark = measuring.Benchmark("", "", 2, cases, {}, pairs)
        return measuring.measure("any", benchmark, rounds=2, say=lambda _: None)

    found = measured(a=measuring.Case(succeed), b=measuring.Case(fail, optional=True))
    assert set(found["cases"]) == {"a"}
    assert found["notes"] == ["b could not be measured: no compiler here"]
    assert found["ratios"] == {}
    with pytest.raises(RuntimeError, match="no compiler"):
        measured(b=measuring.Case(fail))


# Compiling takes most of a minute.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in QUICK if n != "noise"])
def test_quick_form_reports_every_case_with_finite_numbers(name, alone, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    measured = report.measure(name, quick=True, rounds=2, say=lambda _: None)
    cases = {c for c in suite.find(name, True).cases if not c.startswith("torch")}
    there = importlib.util.find_spec("onnxruntime") is not None
    cases = {c for c in cases if there or "ONNX" not in c}
    assert set(measured["cases"]) == {c for c in cases if "matmul" not in c}
    for part in ("cases", "ratios", "values", "overview"):
        for number in _numbers(measured.get(part, {})):
            assert math.isfinite(number)
    ratios = list(_numbers(measured["ratios"]))
    if name == "small_files" and not there:  # all ratios are to ONNX Runtime
        assert not ratios
    else:
        assert every(x > 0 for x in ratios)
    assert measured["quick"]


def test_committed_readme_is_what_the_committed_json_gives():
    committed = report.read_all(COMMITTED)
    if not committed:
        pytest.skip("no benchmark is committed")
    assert (COMMITTED / "README.md").read_text("utf-8") == report.markdown(committed)
    assert not any(measured["quick"] for measured in committed)


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    yield module
    module.set_num_threads(threads)


SMALL = {  # of one position before the dense layers: no order of axes matters there
    "vgg": (nets.VGG(width=0.05, blocks=2, input_std=(0.5,)), (4, 4, 3)),
    "resnet50": (
        ResNet(classes=3, stages=(1, 1), width=2, zero_last_scale=False),
        (17, 16, 3),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_torch_nets_compute_the_same(name, torch):
    net, shape = SMALL[name]
    x = random.uniform(random.key(0), (4, *shape))
    variables = jax.jit(net.init)(random.key(1), x)
    theirs = torch_nets._modules(torch)(net.plan, shape, {})
    weights = [p for n, p in theirs.named_parameters() if n.endswith("mean")]
    for layer, weight in zip(net.layers, weights, strict=True):
        ours = np.asarray(variables["params"][layer]["kernel"].mean)
        weight.data = torch.from_numpy(np.moveaxis(ours, (-1, -2), (0, 1)).copy())
    run = jax.jit(functools.partial(net.apply, mode=TRAIN, mutable=["batch_stats"]))
    expected, _ = run(variables, x)
    actual = theirs(torch.from_numpy(np.array(x)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(actual.detach(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_torch_nets_take_the_steps_asked_for(name, torch):
    net, shape = SMALL[name]
    split = workloads.Size(net, shape, batch=4).split(1)
    for kind in ("gaussian", "variance"):
        kinds = dict.fromkeys((net.layers[1], net.layers[-1]), kind)
        made = torch_nets._modules(torch)(net.plan, shape, kinds)
        x = torch.from_numpy(split.inputs).permute(0, 3, 1, 2) / 255
        (made(x).square().sum() + made.kl()).backward()
        assert every(torch.isfinite(p.grad).all() for p in made.parameters())
        assert not torch.equal(made(x), made(x))
        for form, precision in (("NCHW", "float32"), ("channels_last", "bfloat16")):
            ready = torch_nets.build(
                net.plan, shape, kinds, form, precision, split, 2, 100
            )
            ready.call()
            assert ready.compile_seconds is None


@pytest.mark.slow
def test_torch_is_in_the_report_with_its_fastest_form(torch, alone, monkeypatch):
    size = workloads.Size(
        nets.MLP((4,), 3),
        (3, 3, 1),
        2,
        methods=("deterministic", "LRT"),
        half=(),
        remat=(),
        forms=("NCHW", "channels_last"),
    )
    workload = dataclasses.replace(workloads.WORKLOADS["lenet5"], sizes={"quick": size})
    monkeypatch.setitem(workloads.WORKLOADS, "lenet5", workload)
    found = report.measure("lenet5", quick=True, rounds=2, say=lambda _: None)
    torchs = {case for case in found["cases"] if case.startswith("torch")}
    assert len(torchs) == 4
    for method in ("deterministic", "LRT"):
        best = min(
            (case for case in torchs if method in case),
            key=lambda case: found["cases"][case]["median"],
        )
        assert f"vnets {method} / {best}" in found["ratios"]
        assert any(best in note for note in found["notes"])
        row = found["overview"][method]
        layouts = [row[f"over PyTorch, {form}"] for form in size.forms]
        assert row["over PyTorch"] in layouts
        assert every(ratio > 0 for ratio in layouts)


def test_rounds_interleave_the_cases_and_turn_around():
    calls = []
    thunks = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = timing.interleave(thunks, rounds=2)
    assert "".join(calls) == "abc" + "cba"
    assert {name: len(times[name]) for name in times} == dict.fromkeys("abc", 2)


def test_summaries_and_ratios():
    times = {"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]}
    assert timing.summary([3.0]) == {"median": 3, "min": 3, "q1": 3, "q3": 3}
    assert timing.ratios(times, {"a / b": ("a", "b")})["a / b"] == {
        "median": 2.0,  # of 2, 3 and 1: not 4 / 3, the ratio of the medians
        "min": 1.0,
        "q1": 1.5,
        "q3": 2.5,
        "of_minima": 2.0,
    }
    assert timing.best(times, ["a", "b"]) == "b"
    assert timing.ratio(times, "a", "b") == 2.0


def test_rounds_end_with_their_time_but_not_before_the_least():
    times = timing.interleave({"a": lambda: None}, 9, seconds=0.0, at_least=3)
    assert len(times["a"]) == 3
    calls = []
    times = timing.interleave({"a": lambda: calls.append(0)}, 2, warmup=3)
    assert (len(calls), len(times["a"])) == (5, 2)


def test_a_case_that_fails_is_named_with_its_reason():
    with pytest.raises(measuring.BenchError, match=r"noise, case 'nothing': .*nothing"):
        measuring.ask("noise", "nothing", quick=True)


@pytest.mark.parametrize(
    ("code", "text"), [(1, "RESOURCE_EXHAUSTED: Out of memory\n..."), (-9, "")]
)
def test_a_case_without_memory_is_told_from_one_that_fails(code, text, monkeypatch):
    done = subprocess.CompletedProcess([], code, "", text)
    monkeypatch.setattr(measuring.subprocess, "run", lambda *_, **options: done)
    with pytest.raises(measuring.NoMemoryError):
        measuring.ask("vgg", "any", quick=False)


def _script(*arguments):
    command = [sys.executable, ROOT / "scripts" / "bench.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_unknown_benchmark_exits_with_the_valid_names():
    done = _script("--only=noise,nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert every(name in done.stderr for name in suite.MODULES)


def test_script_measures_what_it_is_asked_and_prints_it(tmp_path):
    done = _script("--only=noise", "--quick", "--rounds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"noise.json", "README.md"}
    assert suite.find("noise").title in done.stdout
    assert "box_muller" in done.stdout
    cases = json.loads((tmp_path / "noise.json").read_text("utf-8"))["cases"]
    first, *others = cases.values()
    assert first["peak_mib"] >= 0
    assert every(case["peak_mib"] is None for case in others)
    assert every(case["compile_seconds"] > 0 for case in cases.values())


@pytest.mark.slow
def test_script_runs_several_each_in_its_own_process(tmp_path):
    only = "--only=noise,lrt_layer"
    done = _script(only, "--quick", "--rounds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    names = {"noise.json", "lrt_layer.json", "README.md"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    out = f"--out={tmp_path / 'file' / 'below'}"
    done = _script("--only=noise", "--quick", "--rounds=1", out)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "memory and compiling" not in done.stdout  # it is known before the measuring
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_forms_differ_only_in_speed(alone):
    measured = report.measure("forms", quick=True, rounds=2, say=lambda line: None)
    assert set(measured["cases"]) == set(forms.CPU)
    assert every(x > 0 for x in _numbers(measured["ratios"]))


def test_the_memory_of_a_case_is_not_that_of_who_started_it():
    held = np.ones(60 * 2**20)  # 480 MiB, all of it touched
    code = "from experiments.bench import measuring; print(measuring.max_rss())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert 2**20 < int(found.stdout) < held.nbytes, found.stderr
