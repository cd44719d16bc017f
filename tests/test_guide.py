"""The code of the guide and of the how-to pages runs as it stands, page by page, and
shows what it says it shows."""

import functools
import re

import documents
import pytest

# Its nets train for two minutes, once: all that look at them stay in one process.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guide")]


@pytest.fixture(scope="module")
def of_page(tmp_path_factory):
    """The lines that the code of a page prints."""

    @functools.cache
    def printed(page):
        code = "\n".join(documents.blocks(f"docs/{page}.md", "python"))
        return documents.printed(code, tmp_path_factory.mktemp("page"))

    return printed


@pytest.fixture
def printed(of_page):
    return of_page("guide")


def number(printed, pattern):
    (found,) = (m for m in (re.search(pattern, line) for line in printed) if m)
    return float(found[1])


def test_the_nodes_of_a_layer_are_shown(printed):
    assert any("Additive(mean=(300, 100)" in line for line in printed)


def test_many_draws_are_tested(printed):
    assert number(printed, r"^200 draws: accuracy (\S+)") >= 0.9


def test_positions_have_answers(of_page):
    found = of_page("howto/sequences")
    assert number(found, r"^of positions: accuracy (\S+)") >= 0.9


def test_the_table_of_weights_is_as_shown(printed):
    (shown,) = (x.splitlines() for x in documents.blocks("docs/guide.md", "text"))
    lines = [line.split() for line in printed]
    for number, line in enumerate(shown[:3]):
        assert line.split()[:6] in [one[:6] for one in lines], number
    assert shown[-1].split()[:4] in [one[:4] for one in lines]


def test_a_model_with_a_flag_is_converted(of_page):
    assert "Stochastic(Flagged, {'*': gaussian})" in of_page("howto/layers")


@pytest.mark.parametrize("column", ["det", "stoch", "ens"])
def test_the_net_classifies_in_every_column(printed, column):
    assert number(printed, rf"^{column}: accuracy (\S+),") >= 0.9


def test_most_weights_can_go_at_any_threshold(printed):
    lines = [line.split() for line in printed if line.endswith("zeros")]
    assert len(lines) == 5
    for _, accuracy, zeros, _ in lines:
        assert float(accuracy) >= 0.9
        assert float(zeros.rstrip("%")) >= 90


def test_what_was_pruned_stays_so_while_the_rest_learns(printed):
    assert number(printed, r"^fine-tuned, .*accuracy (\S+)") >= 0.9
    assert number(printed, r"^fine-tuned, (\S+)% zeros") >= 90


def test_a_trained_net_is_a_start(of_page):
    found = of_page("howto/pretrained")
    assert number(found, r"^from a trained start: accuracy (\S+)") >= 0.9
    assert {"carried: True", "(8, 10)"} <= set(found)


def test_noise_is_told_from_digits(printed):
    assert number(printed, r"^AUROC (\S+)") >= 0.9


def test_the_file_is_small_and_right(printed):
    size = number(printed, r"^(\d+) bytes")
    assert size <= 266_200 * 4 / 50  # the dense weights in float32
    assert number(printed, r"bytes, accuracy (\S+)") >= 0.9


def test_the_chain_of_a_residual_model_is_the_model(of_page):
    found = of_page("howto/smaller")
    assert number(found, r"^model and chain differ by (\S+)") <= 1e-4


def test_a_loop_of_ones_own_fits_and_its_weights_load(of_page):
    found = of_page("howto/own_loop")
    assert number(found, r"^error of the mean (\S+),") <= 0.1
    assert "loaded the same: True" in found


def test_a_task_that_was_learned_is_not_forgotten_by_the_next(of_page):
    found = of_page("howto/continual")
    assert number(found, r"^as learned, task 1: accuracy (\S+)") >= 0.85
    for task in (1, 2):
        assert number(found, rf"^refreshed, task {task}: accuracy (\S+)") >= 0.8


def test_five_lines_classify_and_sets_hold_what_they_promise(of_page):
    found = of_page("howto/calibrate")
    assert number(found, r"^five lines: accuracy (\S+)") >= 0.9
    assert number(found, r"^ECE (\S+) at") <= 0.1
    assert 0.9 <= number(found, r"^sets of (\S+) classes") <= 2
    # 360 labels of the test, and as noisy a bound by 200 that were held out.
    error = (0.95 * 0.05 * (1 / 360 + 1 / 200)) ** 0.5
    assert number(found, r"hold (\S+) of the labels") >= 0.95 - 5 * error
