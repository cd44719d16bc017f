"""Laws of the notebooks: committed as they ran, small, and they run as they show."""

import json
import re
import resource

import documents
import pytest
import yaml

from experiments import notebooks

PATHS = notebooks.paths()
MOST = 250_000  # bytes of a notebook with its pictures
SECONDS = 120  # of processor time: a minute on two cores


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell) -> list[str]:
    """What a cell showed: a stream's name, or the richest form of a value."""
    shown = [one.get("data", {one.get("name"): None}) for one in cell["outputs"]]
    rich = ("image/png", "text/markdown")
    return [next((k for k in rich if k in one), next(iter(one))) for one in shown]


def percentages(notebook) -> list[float]:
    texts = [
        "".join(text)
        for cell in code(notebook)
        for one in cell["outputs"]
        for text in (one.get("text", ""), one.get("data", {}).get("text/markdown", ""))
    ]
    return [float(number) for number in re.findall(r"([\d.]+)%", "".join(texts))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    notebook = json.loads(path.read_text("utf-8"))
    cells = code(notebook)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    shown = [kind for cell in cells for kind in kinds(cell)]
    assert set(shown) <= {"stdout", "image/png", "text/markdown", "text/plain"}
    assert kinds(cells[-1])[-1] in ("image/png", "text/markdown")
    assert path.stat().st_size <= MOST
    assert notebook["metadata"].keys() == {"kernelspec"}


def test_the_site_has_them_all():
    config = (documents.ROOT / "mkdocs.yml").read_text("utf-8")
    nav = yaml.safe_load(config)["nav"]
    (listed,) = (part["Notebooks"] for part in nav if "Notebooks" in part)
    pages = [page for entry in listed for page in entry.values()]
    assert sorted(pages) == [f"notebooks/{path.stem}.md" for path in PATHS]
    assert len(PATHS) == 5


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_minute_and_shows_what_it_showed(path, tmp_path):
    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, committed = spent(), json.loads(path.read_text("utf-8"))
    ran = notebooks.executed(path, tmp_path)
    assert spent() - before <= SECONDS
    for cell, other in zip(code(ran), code(committed), strict=True):
        assert kinds(cell) == kinds(other), cell["source"]
    now, then = percentages(ran), percentages(committed)
    assert now == pytest.approx(then, abs=8)  # another processor rounds otherwise
