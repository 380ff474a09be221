"""Long stages say on stderr where they are, also where that is no terminal."""

import io
import re
import sys
import threading

import pytest

pytest.importorskip("tqdm")

from training_cli import progress as telling


class Log(io.StringIO):
    """A stderr that is no terminal and says when a line has come."""

    def __init__(self):
        super().__init__()
        self.came = threading.Event()

    def write(self, text):
        written = super().write(text)
        self.came.set()
        return written


def eager(monkeypatch):
    """A log as stderr, told at once. Not a fixture: pytest sets stderr between a test's setup and its call."""
    stream = Log()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(telling, "_last", float("-inf"))
    for name, seconds in (("FIRST_S", 0.0), ("EVERY_S", 0.0), ("LOOK_S", 0.001)):
        monkeypatch.setattr(telling, name, seconds)
    return stream


def next_line(log):
    log.came.clear()
    assert log.came.wait(20), "nothing was told"


def test_a_loop_says_how_many_are_done(monkeypatch):
    log = eager(monkeypatch)
    seen = []
    for number in telling.progress(iter("abc"), 3, "Radiomics"):
        seen.append(number)
        next_line(log)
        next_line(log)
    assert seen == ["a", "b", "c"]
    lines = [line for line in log.getvalue().splitlines() if line]
    assert all(re.fullmatch(r"Radiomics: [0-2] of 3 cases, \d+ s", line) for line in lines)
    assert {line.split(":")[1][:5] for line in lines} == {" 0 of", " 1 of", " 2 of"}


def test_of_stages_within_one_another_the_inner_one_is_told(monkeypatch):
    log = eager(monkeypatch)
    with telling.working("Scoring"):
        next_line(log)
        outer = log.getvalue()
        with telling.working("Predicting"):
            for _ in range(4):
                next_line(log)
    assert outer.startswith("Scoring: 0 s") and "Predicting: 0 s" in log.getvalue()


def test_short_stages_say_nothing(monkeypatch):
    log = Log()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(telling, "FIRST_S", 3600.0)
    with telling.working("Scoring"):
        assert list(telling.progress([1, 2], 2, "Cutting slices")) == [1, 2]
    assert log.getvalue() == ""


def test_what_stops_a_loop_stops_the_telling(monkeypatch):
    eager(monkeypatch)
    with pytest.raises(ValueError), telling.working("Scoring"):
        raise ValueError
    for _ in telling.progress([1, 2], 2, "Cutting slices"):
        break
    assert telling._open == []
