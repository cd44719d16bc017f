"""The benchmarks run in their quick form, and the README is what the JSON gives.

No time is asserted: a test machine is busy.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench import (
    forms,
    lenet5,
    lrt_layer,
    noise,
    report,
    timing,
    torch_lenet5,
)

ROOT = Path(report.__file__).resolve().parents[2]
MODULES = {"lenet5": lenet5, "noise": noise, "lrt_layer": lrt_layer}
# forms is lenet5 compiled four times over: a minute of its own.
assert set(report.BENCHMARKS) == {*MODULES, "forms"}
COMMITTED = ROOT / "results" / "bench"


def _numbers(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _numbers(value)
    elif isinstance(tree, int | float):
        yield tree


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """All quick forms, without PyTorch: their folder, and what was said."""
    folder, said = tmp_path_factory.mktemp("bench"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)  # as where it is not installed
        for name in MODULES:
            measured = report.measure(name, quick=True, rounds=2, say=said.append)
            report.save(folder, measured)
    return folder, said


# One benchmark runs as a script below; all of them take a minute and a half.
@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_quick_form_reports_every_case_with_finite_numbers(name, reports):
    measured = json.loads((reports[0] / f"{name}.json").read_text("utf-8"))
    cases = {case for case in MODULES[name].cases(True) if "torch" not in case}
    assert set(measured["cases"]) == cases
    first, *others = measured["cases"].values()
    assert first["peak_mib"] >= 0
    assert all(case["peak_mib"] is None for case in others)
    assert measured["ratios"]
    parts = [measured[part] for part in ("cases", "ratios")]
    values = measured.get("values", {})
    assert all(math.isfinite(x) for part in [*parts, values] for x in _numbers(part))
    assert all(x > 0 for x in _numbers(measured["ratios"]))
    assert measured["quick"]
    assert measured["rounds"] == 2
    assert measured["device"]["platform"] == "cpu"


@pytest.mark.slow
def test_missing_torch_is_said_and_the_rest_is_measured(reports):
    folder, said = reports
    measured = json.loads((folder / "lenet5.json").read_text("utf-8"))
    assert "'.[bench]'" in torch_lenet5.MISSING
    assert torch_lenet5.MISSING in said
    assert measured["notes"] == [torch_lenet5.MISSING]
    assert torch_lenet5.MISSING in (folder / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_readme_is_generated_and_names_every_case_and_the_device(reports):
    folder, _ = reports
    text = (folder / "README.md").read_text("utf-8")
    everything = report.read_all(folder)
    assert [r["name"] for r in everything] == list(MODULES)
    assert text == report.markdown(everything)
    assert text.count(report.device(everything[0])) == len(MODULES)
    for measured in everything:
        assert all(f"| {case} |" in text for case in measured["cases"])
    assert (folder / "lenet5.png").read_bytes().startswith(b"\x89PNG")
    assert "mean nothing" in text


def test_committed_readme_is_what_the_committed_json_gives():
    committed = report.read_all(COMMITTED)
    if not committed:
        pytest.skip("no benchmark is committed")
    assert (COMMITTED / "README.md").read_text("utf-8") == report.markdown(committed)
    assert not any(measured["quick"] for measured in committed)


@pytest.mark.slow
def test_torch_nets_take_the_steps_asked_for():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    cases = torch_lenet5.cases(lenet5.random_split(4), 2, 2, 60_000)
    try:
        assert len(cases) == len(lenet5.NETS) * len(torch_lenet5.LAYOUTS)
        for case in cases.values():
            case.build()()
            assert case.units == 2
    finally:
        torch.set_num_threads(threads)


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


def test_a_case_that_fails_is_named_with_its_reason():
    with pytest.raises(timing.BenchError, match=r"noise, case 'nothing': .*nothing"):
        timing.peak_mib("noise", "nothing", quick=True)


def _script(*arguments):
    command = [sys.executable, ROOT / "scripts" / "bench.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_unknown_benchmark_exits_with_the_valid_names():
    done = _script("--only=noise,nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert all(name in done.stderr for name in report.BENCHMARKS)


def test_script_measures_what_it_is_asked_and_prints_it(tmp_path):
    done = _script("--only=noise", "--quick", "--rounds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"noise.json", "README.md"}
    assert noise.TITLE in done.stdout
    assert "box_muller" in done.stdout


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    out = f"--out={tmp_path / 'file' / 'below'}"
    done = _script("--only=noise", "--quick", "--rounds=1", out)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "peak memory" not in done.stdout  # it is known before the measuring
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_forms_differ_only_in_speed():
    measured = report.measure("forms", quick=True, rounds=2, say=lambda line: None)
    assert set(measured["cases"]) == set(forms.CHANGES)
    assert all(x > 0 for x in _numbers(measured["ratios"]))
