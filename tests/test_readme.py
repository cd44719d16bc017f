"""The README's example runs as it stands, and generated parts are the records'."""

import documents
import pytest

from experiments.tables import pages

README = documents.text("README.md")


LOOK = """
for net in (pruned, tuned.state.params):
    print("zeros", int((net["logits"]["kernel"].mean == 0).sum()))
variables = {"params": tuned.state.params}
measured = evaluate(model, variables, digits.test, spec, random.key(1))
print("tuned", measured["accuracy"])
"""


@pytest.mark.slow
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


def test_marks_are_required():
    with pytest.raises(ValueError, match="0 pairs"):
        pages.with_block(pages.README, "nothing", "")
