"""The README's example runs as it stands, and generated parts are the records'."""

import documents
import pytest

from experiments.tables import outcomes, pages, reading

README = documents.text("README.md")
OVERVIEW = documents.text("results/README.md")


LOOK = """
for net in (pruned, tuned.state.params):
    print("zeros", int((net["logits"]["kernel"].mean == 0).sum()))
variables = {"params": tuned.state.params}
measured = evaluate(model, variables, digits.test, spec, random.key(1))
print("tuned", measured["accuracy"])
"""


def test_library_example_gives_chance_and_a_good_ensemble(tmp_path):
    code = "\n".join([*documents.blocks("README.md", "python"), LOOK])
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


def test_the_page_is_short():
    assert len(README.encode()) <= 10_000


def test_the_overview_tells_what_holds_and_what_did_not_run():
    found = outcomes.all_of(reading.select(), "", pages.RESULTS)
    largest = {outcome.table.name: outcome for _, outcome in found}
    for name, outcome in largest.items():
        (line,) = (x for x in OVERVIEW.splitlines() if x.startswith(f"| [`{name}`]"))
        verdicts = [verdict.holds for verdict in outcome.verdicts]
        held, told = verdicts.count(True), len(verdicts) - verdicts.count(None)
        assert f"| {held} of {told}" in line or not told
        assert (f"{verdicts.count(None)} not run" in line) == (None in verdicts)
        assert outcome.table.asks.replace("|", "\\|") in line
    for name in set(reading.names()) - set(largest):  # no record yet, so no page
        assert f"[`{name}`]" not in OVERVIEW


def test_marks_are_required():
    with pytest.raises(ValueError, match="0 pairs"):
        pages.with_block(pages.README, "nothing", "")
