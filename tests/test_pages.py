"""What stands in results/ and the README is what the committed records give, byte by
byte, and nothing else stands there."""

import csv
import io
import re

import pytest

from experiments.tables import outcomes, pages, reading, render, words

RESULTS = pages.RESULTS
OUTCOMES = outcomes.all_of(reading.select(), "", RESULTS)
PAGES = pages.pages(OUTCOMES)
TEXTS = {path: text for path, text in PAGES.items() if path.suffix == ".md"}
TABLES = [path for path in PAGES if path.suffix == ".csv"]
WITH_READING = {f: o.scale.reading for f, o in OUTCOMES if o.scale.reading}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_a_page_is_what_the_records_give(path):
    assert path.read_bytes() == PAGES[path].encode(), "run scripts/tables.py"


def test_every_page_is_generated():
    there = {*RESULTS.rglob("*.md"), *RESULTS.rglob("*.csv")}
    assert there | {pages.README, pages.SPEED, pages.SMALL_FILES} == set(PAGES)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_a_page_is_quick_to_read(path):
    """No table is wider than eight columns, no paragraph longer than 500 characters."""
    for block in re.sub(r"(?s)```.*?```", "", TEXTS[path]).split("\n\n"):
        if block.startswith("|"):
            bars = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
            assert max(bars) - 1 <= 8, block
        elif path.is_relative_to(RESULTS):
            assert max(map(len, re.split(r"\n(?=- )", block))) <= 500, block


@pytest.mark.parametrize(
    "home", WITH_READING, ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_a_reading_has_a_sentence_a_bullet(home):
    """The page has all of it, in bullets below lines that end in a colon."""
    told = words.bullets(WITH_READING[home])
    assert f"\n\n{told}\n\n" in PAGES[home.with_suffix(".md")]
    assert re.sub("(?m)^- ", "", told).split() == WITH_READING[home].split()
    for line in filter(None, told.splitlines()):
        assert re.fullmatch(r"- .*\.|[^-].*:", line), line
        assert not re.search(r"[.!?] [A-Z]", line), line


@pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_csv_has_the_table_whole(path):
    header, *lines = csv.reader(io.StringIO(PAGES[path]))
    page = PAGES[path.with_suffix(".md")]
    assert f"({path.name})" in page
    grid = page[page.index("| Row |") :].split("\n\n")[0].splitlines()
    cells = [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in grid]
    names, _, *shown = [[cell.replace("\\|", "|") for cell in one] for one in cells]
    assert len(header) > len(names)
    rows = {fields[0] for fields in shown}
    for label, whose, *_ in (line for line in lines if line[0] not in rows):
        assert whose == "ours, n = 0" or not whose.startswith("ours")
        assert f"\n- {label}\n" in page
    ran = [line for line in lines if line[0] in rows]
    for line, fields in zip(ran, shown, strict=True):
        whole = dict(zip(header, line, strict=True))
        assert line[0]
        assert fields[0] in ("", line[0])
        assert fields[1:] == [whole[name] for name in names[1:]]


def test_every_picture_is_shown_and_there():
    shown = {f.parent / image for f, o in OUTCOMES for _, image in render.images(o)}
    there = set(RESULTS.glob("*/*.png"))
    assert {path for path in there if path.parent.name != "bench"} == shown


def test_every_committed_record_is_in_a_table():
    shown = {
        path
        for table in reading.select()
        for scale in table.scale
        for path in outcomes.collect(table, scale, RESULTS)
    }
    assert shown == set(RESULTS.glob("*/*/*.json"))
