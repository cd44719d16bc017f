"""The README's example runs as it stands, and its commands exist."""

import re

import documents
import pytest
from PIL import Image

from experiments.tables import figures, pages

ROOT = documents.ROOT
README = documents.text("README.md")


LOOK = """
for net in (pruned, tuned.state.params):
    print("zeros", int((net["logits"]["kernel"].mean == 0).sum()))
variables = {"params": tuned.state.params}
measured = evaluate(own, variables, digits.test, spec, random.key(1))
print("tuned", measured["accuracy"])
"""


def test_library_example_gives_chance_and_a_good_ensemble(tmp_path):
    first, *blocks = documents.blocks("README.md", "python")
    code = "\n".join([first, "own = model", *blocks, LOOK])
    lines = [line.split() for line in documents.printed(code, tmp_path)]
    printed = {line[0]: float(line[1]) for line in lines if len(line) == 2}
    assert set(printed) == {"det", "stoch", "ens", "zeros", "tuned"}
    # Of the pruned net, and of the one that was trained on.
    zeros = [line[1] for line in lines if line[:1] == ["zeros"]]
    assert len(zeros) == 2
    assert zeros[0] == zeros[1] != "0"
    assert printed["tuned"] >= 0.9
    assert printed["det"] <= 0.3
    assert printed["stoch"] >= 0.8
    assert printed["ens"] >= 0.9
    # And a model with a flag, whose summary is as shown.
    (shown,) = (x.splitlines() for x in documents.blocks("README.md", "text"))
    for number, line in enumerate(shown[:3]):
        assert line.split()[:6] in [one[:6] for one in lines], number
    assert shown[-1].split()[:4] in [one[:4] for one in lines]


def test_marks_are_required():
    with pytest.raises(ValueError, match="0 pairs"):
        pages.with_block(README, "nothing", "")


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert used
    assert used <= targets


def test_scripts_exist():
    used = set(re.findall(r"scripts/[a-z_]+\.py", README))
    assert used
    for script in used:
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("image", re.findall(r"\| !\[[^]]*\]\(([^)]+)\)", README))
def test_pictures_in_half_of_a_page_have_few_panels(image):
    """Two at most: of more than that nobody can read the letters."""
    with Image.open(ROOT / image) as picture:
        assert picture.width <= 2 * figures.WIDTH * figures.DPI


@pytest.mark.parametrize(
    "link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README)))
)
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
