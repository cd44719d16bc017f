"""Every kind of figure draws what the records hold, and the probes become a GIF."""

import dataclasses
import json

import numpy as np
import pytest
from claims import every
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments import animation
from experiments.records import RecordError, write
from experiments.tables import figures, outcomes, panels, reading, specs
from tests.toy_table import make

SPEC = """
title = "A table"
asks = "a question"
part = "variance networks"
metric = "accuracy"
column = [{ eval = "det", label = "Deterministic" }]
row = [
  { name = "a", label = "Net A", run = "configs/x.py:a", series = "nets", x = 1, paper.figure.det = 0.4 },
  { name = "b", label = "Net B", run = "configs/x.py:b", series = "nets", x = 2 },
]
scale.short.text = "The data."
published.figure = { label = "a figure", source = "a paper", tag = "F" }
"""  # noqa: E501
FIGURES = {
    "lines": 'curve = "c"\nx = "u"\ny = ["v", "w"]\nlog_x = true',
    "history": 'y = ["det", "log_alpha/*", "-loss"]',
    "history_lines": 'y = ["det"]\nrows = ["a"]',
    "points": 'curve = "c"\nx = "v"\ny = ["w"]\nby = "class"',
    "pictures": 'curve = "c"\nx = "v"\ny = ["v"]',
    "rows": 'y = ["det"]',
    "band": 'curve = "c"\nx = "u"\ny = ["v", "low", "high", "w"]',
}


def colours(axes):
    """Of the lines with a name, by it."""
    lines = axes.get_lines()
    named = (line for line in lines if not line.get_label().startswith("_"))
    return {line.get_label(): line.get_color() for line in named}


def record(variant, seed):
    u = np.linspace(1, 5, 9)
    curve = {"u": u, "v": u + seed, "w": u**2, "low": u - 1, "high": u + 2}
    curve["class"] = np.arange(9) % 3
    rows = [
        {
            "epoch": e,
            "det": e / 4,
            "loss": 1 / e,
            "log_alpha/dense1": e - 3.0 + seed,
            "probe_seconds": 0.1,
        }
        for e in (1, 2, 3)
    ]
    curves = {"c": {name: list(map(float, axis)) for name, axis in curve.items()}}
    return make(variant, seed, det=0.5, history=rows, curves=curves)


@pytest.fixture
def outcome(tmp_path):
    def fill(kind, records, spec=SPEC):
        figure = f"[figure.f]\ntitle = 'A figure'\nkind = '{kind}'\n"
        path = tmp_path / "toy.toml"
        path.write_text(f"{spec}\n{figure}{FIGURES[kind]}\n")
        held = {tmp_path / f"{i}": one for i, one in enumerate(records)}
        return outcomes.aggregate(reading.load(path), "short", held)

    return fill


@pytest.mark.parametrize("kind", specs.KINDS)
def test_each_kind_draws_something(kind, outcome, tmp_path):
    records = [record("a", 0), record("a", 1), record("b", 0)]
    filled = outcome(kind, records)
    [figure] = filled.table.figure
    assert figures.has_data(figure, filled)
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    figures.save(figure, filled, first)
    figures.save(figure, filled, second)
    assert first.read_bytes() == second.read_bytes()  # no clock in it
    pixels = np.asarray(Image.open(first).convert("RGB"))
    coloured = (np.ptp(pixels.astype(int), axis=-1) > 40).mean()
    assert coloured > 0.0002  # lines or points, not the grey frame alone


@pytest.mark.parametrize("kind", specs.KINDS)
def test_without_records_there_is_nothing_to_draw(kind, outcome):
    empty = outcome(kind, [])
    assert not figures.has_data(empty.table.figure[0], empty)


def test_means_and_bands_are_over_the_seeds(outcome):
    from matplotlib.figure import Figure

    filled = outcome("lines", [record("a", 0), record("a", 2)])
    [figure] = filled.table.figure
    title, draw = panels.OF["lines"](figure, filled)[0]
    axes = Figure().subplots()
    draw(axes)
    [line] = axes.get_lines()
    assert title == "v"
    np.testing.assert_allclose(line.get_ydata(), np.linspace(1, 5, 9) + 1)
    [band] = axes.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(6 + np.sqrt(2))  # std of 0 and 2 is sqrt 2


def test_rows_without_published_numbers_have_an_axis_of_numbers(outcome):
    filled = outcome("rows", [record("b", 0)])
    [figure] = filled.table.figure
    rows = [m for m in filled.rows if not m.row.paper]
    filled = dataclasses.replace(filled, rows=rows)
    axes = Figure().subplots()
    [(_, draw)] = panels.OF["rows"](figure, filled)
    draw(axes)
    [line] = axes.get_lines()
    assert line.get_ydata() == pytest.approx([0.5])
    assert list(axes.get_xticks()) == [2.0]  # where a row is


def test_long_titles_of_panels_keep_to_their_panel(outcome, tmp_path, monkeypatch):
    filled = outcome("history", [record("a", 0), record("b", 0)])
    long = " ".join(["words"] * 12)
    rows = [
        dataclasses.replace(m, row=dataclasses.replace(m.row, label=long))
        for m in filled.rows
    ]
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: titles.append(text))
    filled = dataclasses.replace(filled, rows=rows)
    figures.save(filled.table.figure[0], filled, tmp_path / "f.png")
    assert [title.replace("\n", " ") for title in titles] == [f"{long} (n = 1)"] * 2
    assert every("(n = 1)" in title for title in titles)
    most = figures.WIDTH * figures.PANEL_LETTERS
    assert max(len(line) for title in titles for line in title.split("\n")) <= most


def test_a_run_or_a_record_becomes_a_gif(tmp_path):
    rows = record("a", 0)["history"]
    workdir = tmp_path / "run"
    workdir.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (workdir / "metrics.jsonl").write_text(lines + '{"epoch": 4, "de')  # still going
    assert animation.history(workdir) == rows
    path = write(tmp_path / "record.json", record("a", 0))
    gif = tmp_path / "out" / "probes.gif"
    animation.save(animation.history(path), gif, title="a run", frames_per_second=1)
    with Image.open(gif) as image:
        assert image.n_frames >= len(rows)
        image.seek(0)
        first = np.asarray(image.convert("L"), int)
        image.seek(len(rows) - 1)
        assert np.abs(np.asarray(image.convert("L"), int) - first).max() > 50


@pytest.mark.parametrize(
    ("extra", "panels"),
    [
        ({}, [("accuracy", ["det"]), ("log alpha", ["log_alpha/a", "log_alpha/b"])]),
        (
            {"return": 9.0, "rmse": 1.0, "kappa_above": 3},
            [
                ("return of an episode", ["det", "return"]),
                ("log alpha", ["log_alpha/a", "log_alpha/b"]),
                ("rmse", ["rmse"]),
                ("kappa_above", ["kappa_above"]),
            ],
        ),
        ({"elbo": -3.0, "kl": 1.0}, None),
    ],
)
def test_an_animation_shows_all_that_every_probe_measured(extra, panels):
    row = {"epoch": 1, "seconds": 2.0, "probe_seconds": 0.1, "det": 0.5}
    row |= {"log_alpha/a": 1.0, "log_alpha/b": 2.0, **extra}
    found = animation.panels([row | {"once": 1.0}, row])
    if panels is None:
        assert ("nats", ["elbo", "kl"]) in found
    else:
        assert found == panels


def test_a_run_without_probes_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no run at"):
        animation.history(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0}\n')
    with pytest.raises(RecordError, match="no probes"):
        animation.history(tmp_path)


def test_rows_of_a_series_are_one_line_at_their_places(outcome):
    filled = outcome("rows", [record("a", 0), record("b", 0), record("b", 1)])
    [(_, draw)] = panels.OF["rows"](filled.table.figure[0], filled)
    axes = Figure().subplots()
    draw(axes)
    measured, published = axes.get_lines()
    assert measured.get_label() == "nets"
    np.testing.assert_array_equal(measured.get_xydata(), [[1, 0.5], [2, 0.5]])
    np.testing.assert_array_equal(published.get_xydata(), [[1, 0.4]])


def test_a_row_whose_place_is_measured_is_a_point_for_each_seed(outcome):
    measured = 'x_column = "det", series = "learned"'
    spec = SPEC.replace('series = "nets", x = 2', measured)
    records = [record("a", 0), record("b", 0), record("b", 1)]
    for k, one in enumerate(records):
        one["evals"]["det"]["accuracy"] = k / 4
    filled = outcome("rows", records, spec)
    [(_, draw)] = panels.OF["rows"](filled.table.figure[0], filled)
    axes = Figure().subplots()
    draw(axes)
    *_, learned = axes.get_lines()
    assert learned.get_label() == "learned"
    np.testing.assert_array_equal(learned.get_xydata(), [[0.25] * 2, [0.5] * 2])


def drawn(figure, filled):
    """The axes of each panel."""
    found = []
    for _, draw in panels.OF[figure.kind](figure, filled):
        found.append(Figure().subplots())
        draw(found[-1])
    return found


def test_a_key_has_one_colour_and_its_words_in_every_panel(outcome):
    one, other = record("a", 0), record("b", 0)
    for row in other["history"]:  # sorts before what the first row has
        row["log_alpha/conv1"] = 1.0
    filled = outcome("history", [one, other])
    figure = dataclasses.replace(
        filled.table.figure[0], y=["det", "log_alpha/*"], labels=["right", "layer *"]
    )
    first, second = map(colours, drawn(figure, filled))
    assert first == second
    assert list(first) == ["right", "layer conv1", "layer dense1"]
    assert len(set(first.values())) == 3
    [plain, _] = drawn(dataclasses.replace(figure, labels=[]), filled)
    assert list(colours(plain)) == ["det", "conv1", "dense1"]


def test_a_group_of_points_has_one_colour_and_a_mark_one_can_see(outcome):
    one, other = record("a", 0), record("b", 0)
    one["curves"]["c"]["class"] = [1.0] * 9
    filled = outcome("points", [one, other])
    first, second = drawn(filled.table.figure[0], filled)
    assert colours(first) == colours(second)
    assert list(colours(first)) == ["class 0", "class 1", "class 2"]
    [handle, *_] = first.get_legend_handles_labels()[0]
    assert handle.get_markersize() >= 5


def test_a_band_is_seen_beside_what_it_lies_on(outcome):
    one = record("a", 0)
    one["curves"]["seen"] = {"x": [1.0, 5.0], "y": [2.0, 4.0]}
    filled = outcome("band", [one])
    figure = filled.table.figure[0]
    change = {"less": "v", "dots": "seen", "labels": ["mean", "band", "band", "more"]}
    [axes] = drawn(dataclasses.replace(figure, **change), filled)
    [middle, more, dots] = axes.get_lines()
    np.testing.assert_array_equal(middle.get_ydata(), np.zeros(9))
    u = np.linspace(1, 5, 9)
    np.testing.assert_allclose(more.get_ydata(), u**2 - u)
    np.testing.assert_allclose(dots.get_ydata(), [1.0, -1.0])
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == (-1.0, 2.0)
    assert axes.get_legend_handles_labels()[1] == ["band", "mean", "more", "seen"]


def test_rows_at_one_place_are_no_figure(outcome):
    one_place = outcome("rows", [record("a", 0), record("a", 1)])
    assert not figures.has_data(one_place.table.figure[0], one_place)
