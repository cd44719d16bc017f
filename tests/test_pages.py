"""What stands in results/ and the README is what the committed records give, byte by
byte, and nothing else stands there."""

import pytest

from experiments.tables import outcomes, pages, reading, render

RESULTS = pages.RESULTS
OUTCOMES = outcomes.all_of(reading.select(), "", RESULTS)
PAGES = pages.pages(OUTCOMES)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_a_page_is_what_the_records_give(path):
    assert path.read_bytes() == PAGES[path].encode(), "run scripts/tables.py"


def test_every_page_is_generated():
    assert {*RESULTS.rglob("*.md"), pages.README, pages.SPEED} == set(PAGES)


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
