"""Laws of every page: links, pictures, commands and targets exist; the site builds."""

import re
import subprocess
import sys

import documents
import pytest
from PIL import Image

from experiments.tables import figures

ROOT = documents.ROOT
PAGES = [
    name.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "results/README.md")
    for name in sorted(ROOT.glob(pattern))
]
TARGETS = re.findall(
    r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
)


def test_there_are_pages_and_targets():
    assert {"README.md", "docs/guide.md", "docs/howto/run.md"} <= set(PAGES)
    assert {"test", "docs", "reproduce-table"} <= set(TARGETS)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    text, folder = documents.text(page), (ROOT / page).parent
    for link in re.findall(r"\]\((?!http)([^)#\s]+)", text):
        assert (folder / link).exists(), link
    for script in re.findall(r"\bscripts/[a-z_]+\.py", text):
        assert (ROOT / script).is_file(), script
    if page != "CHANGELOG.md":  # which tells of what was
        assert set(re.findall(r"\bmake ([a-z]+-?[a-z]*)`", text)) <= set(TARGETS)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_pictures_have_few_panels(page):
    """Two at most: of more than that nobody can read the letters."""
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", documents.text(page))
    assert images
    for image in images:
        with Image.open((ROOT / page).parent / image) as picture:
            assert picture.width <= 2 * figures.WIDTH * figures.DPI


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = ("index", "gallery", "reference/layers", "notebooks/own_method")
    for page in pages:
        assert (tmp_path / "site" / f"{page}.html").is_file()
    shown = (tmp_path / "site" / "notebooks" / "own_method.html").read_text("utf-8")
    assert "own_method-0.png" in shown
