"""How far work has come, in each of the ways to say it."""

import sys
import types

import numpy as np
import pytest

from llmds.base import progress
from llmds.base.progress import bar


def test_silence_says_nothing(capsys):
    with bar(False, 10, "work") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_callable_is_told_how_many_are_done_of_how_many():
    calls = []
    with bar(lambda done, total: calls.append((done, total)), 10, "work") as advance:
        advance(3), advance(0), advance(7)
    assert calls == [(3, 10), (3, 10), (10, 10)]


def test_what_a_callable_raises_goes_to_the_caller():
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bar(stop, 10, "work") as advance:
        advance(1)


class PretendedBar:
    """What of a tqdm bar is used."""

    made: list = []  # noqa: RUF012

    def __init__(self, **options):
        self.options, self.done, self.closed = options, 0, False
        self.made.append(self)

    def update(self, count):
        self.done += count

    def close(self):
        self.closed = True


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(PretendedBar, "made", [])
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=PretendedBar))
    return PretendedBar.made


def test_tqdm_draws_the_bar_where_it_is_installed(pretended):
    with bar(True, 10, "work", "text") as advance:
        advance(4), advance(6)
        assert not pretended[0].closed
    (drawn,) = pretended
    assert drawn.done == 10 and drawn.closed
    assert (drawn.options["total"], drawn.options["desc"], drawn.options["unit"]) == (10, "work", "text")


def test_the_bar_is_closed_when_work_fails(pretended):
    with pytest.raises(ZeroDivisionError), bar(True, 10, "work") as advance:
        advance(4)
        raise ZeroDivisionError
    assert pretended[0].closed and pretended[0].done == 4


def test_the_real_tqdm_takes_what_it_is_given(capsys):
    pytest.importorskip("tqdm")
    with bar(True, 10, "work", "text") as advance:
        advance(4), advance(6)
    shown = capsys.readouterr()
    assert "work" in shown.err and "100%" in shown.err and shown.out == ""


@pytest.fixture
def missing(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tqdm", None)


def test_without_tqdm_a_percentage_is_written(missing, capsys):
    with bar(True, 8, "work") as advance:
        advance(4), advance(4)
    shown = capsys.readouterr()
    assert shown.err.startswith("\rwork: 0%") and shown.err.endswith("\rwork: 100%\n") and shown.out == ""


def test_the_percentage_is_rewritten_ten_times_a_second_at_most(missing, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar(True, 1000, "work") as advance:
        for _ in range(1000):
            now[0] += 0.001
            advance(1)
    lines = capsys.readouterr().err.split("\r")
    assert 10 <= len(lines) <= 13 and lines[-1] == "work: 100%\n"


def test_no_work_is_done_at_once(missing, capsys):
    with bar(True, 0, "work") as advance:
        advance(0)
    assert capsys.readouterr().err.endswith("\n")


@pytest.mark.parametrize("wrong", [None, 1, 0, "yes", [], 0.5, np.True_], ids=repr)
def test_anything_else_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="progress must be a bool or a callable, got"), bar(wrong, 10, "work"):
        raise AssertionError("no work is begun")
