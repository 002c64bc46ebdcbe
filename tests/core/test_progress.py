"""What a batch run tells while it works: to the events' file, to a terminal, to whoever reads its output."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
import typer

from pentad.core.batch import progress
from pentad.core.batch.journal import CaseRecord
from pentad.core.batch.progress import Progress
from pentad.core.batch.worker import Log

GOOD = CaseRecord(case="a", status="ok", seconds=1.23456, flags=["odd"])
BAD = CaseRecord(case="b", status="failed", code="PTD-300", reason="it broke.", seconds=2.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time that the progress sees, to be set."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def shown(folder, total=10, *, quiet=False, json_lines=False):
    return Progress(folder / "events.jsonl", total, quiet=quiet, json_lines=json_lines)


def events(folder):
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert all(event.pop("t").endswith("Z") for event in found)
    return found


def test_a_plain_line_comes_every_half_minute_and_foretells_the_end(tmp_path, capsys, clock):
    with shown(tmp_path) as told:
        for seconds, line in [
            (29.5, ""),
            (30, "0 of 10 cases after 30 s\n"),
            (59.5, ""),
            (60, "1 of 10 cases and 25% of the next after 60 s, about 7 min left\n"),
            (60.5, ""),
        ]:
            clock.seconds = 1000 + seconds
            if seconds == 59.5:
                told.case_done(GOOD, ())
            told.tick(0.25 if seconds == 60 else 0.0)
            assert capsys.readouterr().err == line


def test_quiet_shows_nothing_but_what_must_be_said(tmp_path, capsys, clock):
    with shown(tmp_path, quiet=True) as told:
        clock.seconds += 3600
        told.tick()
        told.case_done(BAD, ())
        told.say("unheard")
        told.say("heard", always=True)
    assert capsys.readouterr() == ("", "heard\n")


def test_events_state_what_became_of_a_case(tmp_path, capsys):
    sent = GOOD.model_copy(update={"sent": {"archive": {"a.dcm": "0000"}}})
    refused = sent.model_copy(update={"code": "PTD-580", "reason": "the archive is away."})
    with shown(tmp_path) as told:
        told.case_done(GOOD, ("never:1 told",))
        told.case_done(BAD, ("module:7 function",))
        told.case_done(BAD, ())
        told.case_sent(sent, "archive")
        told.case_sent(refused, "archive")
        told.log(Log(30, "pentad.x", "Schnitte für alle"))
    assert "Schnitte für alle" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    done = {"event": "case.done", "status": "failed", "flags": [], "case": "b", "s": 2.0, "code": "PTD-300"}
    handed = {"event": "case.sent", "case": "a", "to": "archive", "files": {"a.dcm": "0000"}}
    assert events(tmp_path) == [
        {"level": "info", "event": "case.done", "case": "a", "status": "ok", "flags": ["odd"], "s": 1.235, "code": 0},
        {"level": "error", **done, "reason": "it broke.", "frames": ["module:7 function"]},
        {"level": "error", **done, "reason": "it broke."},
        {"level": "info", **handed, "code": 0},
        {"level": "error", **handed, "code": "PTD-580"},
        {"level": "warning", "event": "log", "logger": "pentad.x", "text": "Schnitte für alle"},
    ]
    assert capsys.readouterr().err.splitlines() == [
        *["PTD-300 b: it broke."] * 2,
        "PTD-580 a: the archive is away.",
    ]


def test_a_terminal_has_a_bar_that_moves_and_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with shown(tmp_path, total=4) as told:
        bar = told._bar
        assert (bar.tasks[0].completed, bar.tasks[0].total) == (0, 4)
        told.case_done(GOOD, ())
        assert bar.tasks[0].completed == 1
        told.tick(0.5)
        assert bar.tasks[0].completed == 1.5
        told.say("[bold]12 of 13[/bold] above the bar")
        assert "[bold]12 of 13[/bold] above the bar" in sys.stderr.getvalue()
    assert told._bar is None
    told = shown(tmp_path, total=0)
    assert told._bar is None
    assert shown(tmp_path, quiet=True)._bar is None


def test_without_a_terminal_or_any_standard_error_there_is_no_bar(tmp_path, monkeypatch):
    assert shown(tmp_path)._bar is None
    monkeypatch.setattr(sys, "stderr", None)
    assert shown(tmp_path)._bar is None


@pytest.mark.parametrize(("to_error", "left"), [(True, ["json", "json"]), (False, ["line", "line"])])
def test_a_listener_that_goes_away_is_told_no_more_and_the_other_still_is(tmp_path, monkeypatch, to_error, left):
    heard = []

    def echo(line, err):
        if err == to_error:
            raise BrokenPipeError
        heard.append("line" if err else "json")

    monkeypatch.setattr(typer, "echo", echo)
    with shown(tmp_path, json_lines=True) as told:
        for _ in range(2):
            told.say("a sentence")
            told.event("run.start")
    assert heard == left
    assert len(events(tmp_path)) == 2


def test_events_that_do_not_fit_the_disk_end_nothing(tmp_path, capsys):
    with shown(tmp_path, json_lines=True) as told:
        told._events.append = lambda line: (_ for _ in ()).throw(OSError("full"))
        told.event("run.start", cases=3)
    assert json.loads(capsys.readouterr().out)["cases"] == 3
