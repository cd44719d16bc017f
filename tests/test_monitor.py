"""A run shows that it goes on: honest times, and lines where there is no terminal."""

import io
import re
import time
import types

import pytest
from rich.console import Console
from train_tasks import make_split, make_task

from vnets import monitor, train


@pytest.fixture
def clock(monkeypatch):
    """What the monitor takes for the time, in its first place."""
    now = [0.0]
    watch = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(monitor, "time", watch)
    return now


def test_the_time_left_counts_evaluations_and_leaves_compiling_out(clock):
    work = monitor.Progress("a net", 3, 10, probed=lambda epoch: True)
    with work.during("compiling"):
        clock[0] = 100.0
        assert work.left() is None
        assert work.facts() == "compiling, epoch 0/3, step 0/30, 0:01:40 gone"
    done = [False]
    with work.during("training"):
        work.sent(5, lambda: done[0])
        work.sent(5, lambda: False)
        work.look()
        assert (work.step, work.rate) == (0, 0.0)
        clock[0], done[0] = 105.0, True
        work.look()
        assert (work.step, work.rate) == (5, 1.0)
        assert work.left() == ("over ", 25.0)  # how long an evaluation is, nobody knows
        clock[0] = 108.0  # between chunks the time runs down
        assert work.left() == ("over ", 22.0)
        clock[0] = 110.0
        work.settled()
    with work.during("evaluating"):
        clock[0] = 115.0
    assert work.left() == ("", 20.0 + 2 * 5.0)
    with work.during("training"):
        work.sent(10, lambda: False)
        clock[0] = 125.0
        work.settled()
    with work.during("evaluating"):
        clock[0] = 127.0
        assert work.left() == ("", 10.0 + 2 * 5.0 - 2.0)
    assert work.rate == 1.0


def test_a_run_that_may_end_early_says_so(clock):
    work = monitor.Progress("a net", 2, 4, early=True)
    with work.during("training"):
        work.sent(4, lambda: True)
        clock[0] = 8.0
        work.settled()
    assert "0.5 steps/s, 0:00:08 gone, at most 0:00:08 left" in work.facts()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(monitor, "SILENCE", 0.02)
    monkeypatch.setattr(monitor, "BEAT", 0.005)


def test_without_a_terminal_there_is_a_line_after_a_silence(quick, capsys):
    with monitor.shown(monitor.Work("a net, evaluating")):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert set(lines) == {"a net, evaluating: 0:00:00 gone"}


def test_what_is_short_or_not_to_be_shown_is_silent(capsys):
    with monitor.shown(monitor.Work("a net, evaluating")):
        pass
    with monitor.shown(monitor.Progress("a net", 1, 1), enabled=False):
        pass
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(clock):
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    work = monitor.Progress("[a] net", 2, 4)
    with monitor._bar(work, screen) as look, work.during("training"):
        work.sent(2, lambda: True)
        clock[0] = 4.0
        look()
    shown = screen.file.getvalue()
    assert "[a] net" in shown
    assert "step 2/8, 0.5 steps/s, 0:00:04 gone, 0:00:12 left" in shown


def test_a_training_tells_its_steps_and_what_came_of_it(one_device, tmp_path, capsys):
    task = make_task(make_split(), probe=lambda *_: {"det": 0.5})
    common = {"seeds": [0], "workdir": lambda _: tmp_path, "mesh": one_device}
    train.fit(task, epochs=1, title="a net", **common)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("a net seed 0 (1/1): starting, epoch 0/1, step 0/5, ")
    assert re.search(r"epoch 1/1, step 5/5, .* steps/s, .* left, loss \S+ det", last)
    train.fit(task, epochs=3, **common)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert "epoch 1/3, step 5/15" in first
    assert "epoch 3/3, step 15/15" in last


def test_training_does_not_wait_for_what_it_has_sent():
    work = monitor.Progress("a net", 1, 8)
    with work.during("training"):
        for _ in range(4):
            work.sent(2, pytest.fail)  # only the one who looks asks
        work.settled()
    assert work.step == 8
