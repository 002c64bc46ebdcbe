from __future__ import annotations

import csv
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from core import batch_processors

from pentad.core.batch import BatchOptions, Destination, deliver_run, merge, run_batch
from pentad.core.batch.journal import read_journal
from pentad.core.cases import Case, Rejection
from pentad.core.errors import NoInputError, UsageError

IDENTITY = {"model": "m1"}


class Archive:
    """A receiver that keeps what it gets, and refuses the cases it is told to."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.got: list[str] = []

    def deliver(self, paths, stopped):
        case = paths[0].parent.name
        if case in self.refused:
            return {path.name: "PTD-777 the archive is full; empty it." for path in paths}
        self.got += [f"{case}/{path.name}" for path in paths]
        return {path.name: "stored" for path in paths}

    def destination(self, pattern: str = "*.txt") -> Destination:
        return Destination("archive", pattern, self.deliver)


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text(str(number))
    return [Case(id=f"c{number}", files={"image": str(tmp_path / "in" / f"{number}.txt")}) for number in range(3)]


@pytest.fixture
def doubling(tmp_path):
    return partial(batch_processors.doubling, tmp_path / "seen.txt")


def worklist(run: Path) -> dict[str, dict[str, str]]:
    with (run / "worklist.csv").open(newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_every_case_is_handed_on_once_and_recorded(tmp_path, cases, doubling):
    archive = Archive()
    code = run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY, destination=archive.destination())
    assert code == 0
    assert sorted(archive.got) == [f"c{number}/answer.txt" for number in range(3)]
    records = read_journal(tmp_path / "a" / "journal.jsonl")
    assert {name: record.sent for name, record in records.items()} == {
        case.id: {"archive": {"answer.txt": "stored"}} for case in cases
    }
    assert {row["sent"] for row in worklist(tmp_path / "a").values()} == {"1"}


def test_what_is_not_handed_on_stays_done_and_resuming_hands_on_that_alone(tmp_path, cases, doubling):
    archive = Archive("c1")
    code = run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY, destination=archive.destination())
    assert code == 3
    row = worklist(tmp_path / "a")["c1"]
    assert (row["status"], row["code"], row["reason"]) == ("ok", "PTD-777", "the archive is full; empty it.")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["cases"]["not_sent"] == 1
    archive.refused, archive.got = (), []
    code = run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY, destination=archive.destination())
    assert code == 0
    assert archive.got == ["c1/answer.txt"]
    assert (tmp_path / "seen.txt").read_text().split() == ["c0", "c1", "c2"]  # nothing was computed twice
    assert worklist(tmp_path / "a")["c1"]["code"] == ""


def test_a_receiver_that_raises_ends_no_run_and_its_words_stay_unsaid(tmp_path, cases, doubling):
    def deliver(paths, stopped):
        raise ValueError("DOE^JANE")

    options = BatchOptions(tmp_path, run="a")
    assert run_batch(cases, doubling, options, IDENTITY, destination=Destination("there", "*.txt", deliver)) == 3
    assert {row["code"] for row in worklist(tmp_path / "a").values()} == {"PTD-300"}
    assert "JANE" not in (tmp_path / "a" / "journal.jsonl").read_text()


def test_a_finished_run_is_handed_on_later_and_only_once(tmp_path, cases, doubling):
    refused = [Rejection(where="x", code="PTD-330", reason="no image.")]
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY, refused)
    archive = Archive("c2")
    assert deliver_run(tmp_path / "a", archive.destination()) == 3
    archive.refused = ()
    assert deliver_run(tmp_path / "a", archive.destination()) == 0
    assert deliver_run(tmp_path / "a", archive.destination()) == 0
    assert sorted(archive.got) == [f"c{number}/answer.txt" for number in range(3)]
    rows = worklist(tmp_path / "a")
    assert rows["x"]["status"] == "rejected"
    assert {rows[case.id]["sent"] for case in cases} == {"1"}
    assert json.loads((tmp_path / "a" / "run.json").read_text())["cases"]["not_sent"] == 0


def test_a_file_that_changed_since_it_was_written_is_not_handed_on(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    (tmp_path / "a" / "cases" / "c1" / "answer.txt").write_text("3")
    archive = Archive()
    assert deliver_run(tmp_path / "a", archive.destination()) == 3
    assert sorted(archive.got) == ["c0/answer.txt", "c2/answer.txt"]
    assert worklist(tmp_path / "a")["c1"]["code"] == "PTD-586"


def test_handing_on_refuses_a_folder_that_is_no_run_and_a_run_without_such_files(tmp_path, cases, doubling):
    with pytest.raises(UsageError, match="PTD-243"):
        deliver_run(tmp_path / "nothing", Archive().destination())
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    with pytest.raises(NoInputError, match=r"PTD-587 .*\*\.dcm"):
        deliver_run(tmp_path / "a", Archive().destination("*.dcm"))


def test_an_interrupted_run_goes_on_handing_on(tmp_path, cases, doubling):
    archive = Archive()

    def interrupting(paths, stopped):
        os.kill(os.getpid(), signal.SIGINT)
        return archive.deliver(paths, stopped)

    options, interrupted = BatchOptions(tmp_path, run="a"), Destination("archive", "*.txt", interrupting)
    assert run_batch(cases, doubling, options, IDENTITY, destination=interrupted) == 130
    options = BatchOptions(tmp_path, resume="a")
    assert run_batch(cases, doubling, options, IDENTITY, destination=archive.destination()) == 0
    assert set(archive.got) == {f"c{number}/answer.txt" for number in range(3)}


def test_a_merged_run_says_what_was_not_handed_on(tmp_path, cases, doubling):
    for index in (1, 2):
        options = BatchOptions(tmp_path, run="a", shard=f"{index}/2")
        run_batch(cases, doubling, options, IDENTITY, destination=Archive("c1").destination())
    assert merge([tmp_path / "a-1of2", tmp_path / "a-2of2"], tmp_path / "whole") == 3
    assert worklist(tmp_path / "whole")["c1"]["code"] == "PTD-777"
