from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from command import unmeasured
from core import batch_processors

from pentad.core.batch import BatchOptions, merge, run_batch
from pentad.core.batch.folder import new_run
from pentad.core.batch.journal import read_journal
from pentad.core.batch.resuming import files_match
from pentad.core.cases import Case, input_digest, write_cases
from pentad.core.errors import UsageError

IDENTITY = {"model": "m1"}


def make_cases(folder: Path, count: int) -> list[Case]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(str(number))
    return [Case(id=f"c{number:02d}", files={"image": str(folder / f"{number}.txt")}) for number in range(count)]


@pytest.fixture
def cases(tmp_path):
    return make_cases(tmp_path / "in", 6)


@pytest.fixture
def doubling(tmp_path):
    return partial(batch_processors.doubling, tmp_path / "seen.txt")


def marks(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "seen.txt").read_text().split() if (tmp_path / "seen.txt").exists() else ())


def start(table: Path, *arguments: str) -> subprocess.Popen[str]:
    inherited = unmeasured() if "--file-limit" in arguments else os.environ
    environment = {**inherited, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "core.batch_driver", str(table), str(table.parent / "out"), *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_at_random_moments_loses_repeats_and_corrupts_nothing(tmp_path, seed):
    chance = random.Random(seed)
    cases = make_cases(tmp_path / "in", 16)
    table, run = tmp_path / "cases.jsonl", tmp_path / "out" / "a"
    write_cases(table, cases)
    common = ("--delay", "0.02", "--workers", str(1 + seed % 2))
    process = start(table, "--run", "a", *common)
    enough = chance.randint(0, 10)
    wait_for(lambda: run.is_dir() and lines_in(run / "journal.jsonl") >= enough)
    time.sleep(chance.uniform(0, 0.05))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    recorded = read_journal(run / "journal.jsonl")
    before = marks(tmp_path)
    assert enough <= len(recorded) < 16
    assert all(files_match(run / "cases" / name, record.files) for name, record in recorded.items())

    resumed = start(table, "--resume", "a", *common)
    resumed.communicate()
    after = read_journal(run / "journal.jsonl")
    assert resumed.returncode == 0
    assert sorted(after) == [case.id for case in cases]
    assert all(after[name] == record for name, record in recorded.items())
    assert all(marks(tmp_path)[name] == before[name] == 1 for name in recorded)
    assert all(files_match(run / "cases" / name, record.files) for name, record in after.items())
    assert [(run / "cases" / f"c{number:02d}" / "answer.txt").read_text() for number in range(16)] == [
        str(2 * number) for number in range(16)
    ]
    assert sorted(path.name for path in (run / "cases").iterdir()) == [case.id for case in cases]
    assert not (run / ".work").exists()


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    write_cases(tmp_path / "cases.jsonl", make_cases(tmp_path / "in", 3))
    process = start(tmp_path / "cases.jsonl", "--run", "a", "--delay", "60")
    wait_for(lambda: any((tmp_path / "out" / "a" / ".work").glob("case-*")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert children
    wait_for(lambda: not any(is_running(int(child)) for child in children), 10)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_goes_on(tmp_path, number):
    write_cases(tmp_path / "cases.jsonl", make_cases(tmp_path / "in", 8))
    run = tmp_path / "out" / "a"
    process = start(tmp_path / "cases.jsonl", "--run", "a", "--delay", "0.2")
    wait_for(lambda: lines_in(run / "journal.jsonl") >= 2)
    os.killpg(process.pid, number)  # the terminal and the cluster signal the workers too
    _, error = process.communicate(timeout=20)
    state = json.loads((run / "run.json").read_text())
    assert process.returncode == state["exit_code"] == 130
    assert (state["status"], state["cases"]["failed"]) == ("interrupted", 0)
    assert "pending, interrupted, go on with --resume a" in error
    assert "pending" in (run / "worklist.csv").read_text()
    resumed = start(tmp_path / "cases.jsonl", "--resume", "a")
    resumed.communicate()
    assert resumed.returncode == 0
    assert lines_in(run / "journal.jsonl") == 8


def test_a_file_size_limit_fails_the_case_and_ends_the_run_cleanly(tmp_path):
    cases = [case.model_copy(update={"target": "fill"}) for case in make_cases(tmp_path / "in", 3)]
    cases[0] = cases[0].model_copy(update={"target": "good"})
    write_cases(tmp_path / "cases.jsonl", cases)
    process = start(tmp_path / "cases.jsonl", "--run", "a", "--processor", "misbehaving", "--file-limit", "100000")
    _, error = process.communicate()
    run = tmp_path / "out" / "a"
    assert process.returncode == 3
    assert "PTD-301 c01: the disk is full or a file exceeds the size allowed; make room, then resume the run." in error
    assert "Traceback" not in error
    assert [path.name for path in (run / "cases").iterdir()] == ["c00"]
    assert [line.split(",")[1] for line in (run / "worklist.csv").read_text().splitlines()[1:]] == [
        "failed",
        "pending",
        "ok",
    ]


def test_a_journal_that_cannot_grow_takes_its_case_back_and_can_be_resumed(tmp_path):
    write_cases(tmp_path / "cases.jsonl", make_cases(tmp_path / "in", 12))
    process = start(tmp_path / "cases.jsonl", "--run", "a", "--file-limit", "3000")
    _, error = process.communicate()
    run = tmp_path / "out" / "a"
    recorded = read_journal(run / "journal.jsonl")
    assert process.returncode == 3
    assert "PTD-301" in error
    assert 0 < len(recorded) < 12
    assert sorted(path.name for path in (run / "cases").iterdir()) == sorted(recorded)
    assert (run / "journal.jsonl").read_bytes().endswith(b"\n")
    resumed = start(tmp_path / "cases.jsonl", "--resume", "a")
    resumed.communicate()
    assert resumed.returncode == 0
    assert all(marks(tmp_path)[name] == 1 for name in recorded)


def test_a_resumed_run_does_only_what_is_not_done(tmp_path, cases, doubling):
    run_batch(cases[:4], doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0
    assert marks(tmp_path) == {case.id: 1 for case in cases}
    assert json.loads((tmp_path / "a" / "run.json").read_text())["starts"] == 2


def test_another_identity_processes_every_case_anew(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), {"model": "m2"})
    assert marks(tmp_path) == {case.id: 2 for case in cases}
    assert {record.identity["model"] for record in read_journal(tmp_path / "a" / "journal.jsonl").values()} == {"m2"}


def test_changed_inputs_and_changed_results_are_processed_anew(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    results = tmp_path / "a" / "cases"
    Path(cases[0].files["image"]).write_text("50")
    (results / "c01" / "answer.txt").write_text("edited")
    (results / "c02" / "deep" / "more.bin").unlink()
    (results / "c03" / "note.txt").write_text("a reader's own file does not matter")
    run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY)
    assert [marks(tmp_path)[case.id] for case in cases] == [2, 2, 2, 1, 1, 1]
    assert [(results / name / "answer.txt").read_text() for name in ("c00", "c01")] == ["100", "2"]


def test_a_case_that_fails_now_leaves_no_earlier_result_behind(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    Path(cases[2].files["image"]).write_text("no number")
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 3
    assert not (tmp_path / "a" / "cases" / "c02").exists()
    Path(cases[2].files["image"]).write_text("2")
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0


def test_what_others_put_into_a_runs_folder_stops_no_resuming(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    run = tmp_path / "a"
    shutil.rmtree(run / "cases" / "c01")
    (run / "cases" / "c01").write_text("a file where a folder was")
    with (run / "journal.jsonl").open("a") as journal:
        journal.write("[" * 100_000 + "\n")
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0
    assert marks(tmp_path) == {case.id: 2 if case.id == "c01" else 1 for case in cases}


def test_a_worklist_that_cannot_be_written_at_the_end_is_no_success(tmp_path, cases, doubling, capsys):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    (tmp_path / "a" / "index.html").unlink()
    (tmp_path / "a" / "index.html").mkdir()
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 3
    assert "PTD-307 a: the worklist could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"shard": "x"}, {"seconds": float("nan")}, {"cases": {"total": "many"}}])
def test_a_run_whose_statement_was_changed_is_named_and_not_taken_for_another(tmp_path, cases, doubling, change):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    statement = tmp_path / "a" / "run.json"
    statement.write_text(json.dumps({**json.loads(statement.read_text()), **change}))
    with pytest.raises(UsageError, match=r"PTD-253 .*readable run.json"):
        run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY)
    with pytest.raises(UsageError, match="PTD-253"):
        merge([tmp_path / "a"], tmp_path / "joined")


def test_a_torn_journal_line_costs_only_its_own_case(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    journal = tmp_path / "a" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0
    assert [marks(tmp_path)[case.id] for case in cases] == [1, 1, 1, 1, 1, 2]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_case_no_longer_given_keeps_its_row_and_says_so(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    run_batch(cases[1:], doubling, BatchOptions(tmp_path, resume="a"), IDENTITY)
    row = next(line for line in (tmp_path / "a" / "worklist.csv").read_text().splitlines() if line.startswith("c00"))
    assert row.split(",")[4] == "not_in_input"


def test_a_run_killed_before_its_first_file_can_be_resumed(tmp_path, cases, doubling):
    with new_run(tmp_path, "a") as run:
        (run / ".part-x1.json").write_text('{"run": ')
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0
    assert not (run / ".part-x1.json").exists()


def test_a_second_run_in_the_same_folder_refuses(tmp_path, cases, doubling):
    with new_run(tmp_path, "a"), pytest.raises(UsageError, match=r"PTD-245 .*another process works in this run"):
        run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY)
    with new_run(tmp_path, "b"), pytest.raises(UsageError, match="PTD-245"):
        run_batch(cases, doubling, BatchOptions(tmp_path, run="b", overwrite=True), IDENTITY)
    assert not (tmp_path / "seen.txt").exists()


def test_a_clock_that_goes_backwards_does_not_matter(tmp_path, cases, doubling, monkeypatch):
    times = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    assert run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY) == 0
    records = read_journal(tmp_path / "a" / "journal.jsonl").values()
    assert all(0 <= record.seconds < 60 for record in records)
    assert 0 < json.loads((tmp_path / "a" / "run.json").read_text())["seconds"] < 60


def test_the_input_digest_follows_content_of_files_folders_and_target(tmp_path):
    (tmp_path / "study" / "deep").mkdir(parents=True)
    (tmp_path / "study" / "deep" / "1.dcm").write_bytes(b"one")
    case = Case(id="a", files={"source": str(tmp_path / "study")})
    first = input_digest(case)
    assert input_digest(case.model_copy(update={"target": "x"})) != first
    assert input_digest(Case(id="b", files={"other": case.files["source"]})) != first
    (tmp_path / "study" / "2.dcm").write_bytes(b"two")
    assert input_digest(case) != first
    (tmp_path / "study" / "2.dcm").unlink()
    assert input_digest(case) == first


def test_a_terminal_shows_a_bar_without_colours_if_asked(tmp_path):
    write_cases(tmp_path / "cases.jsonl", make_cases(tmp_path / "in", 3))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "NO_COLOR": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", "core.batch_driver", str(tmp_path / "cases.jsonl"), str(tmp_path / "out")]
    shown: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 4096):
                shown.append(piece)
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    result = subprocess.run(command, env=environment, stderr=theirs, stdout=subprocess.PIPE, check=False)
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = b"".join(shown).decode()
    assert (result.returncode, result.stdout) == (0, b"")
    assert "3/3" in text
    assert "\x1b[3" not in text.replace("\x1b[3A", "")  # no colour


def test_what_a_cut_short_case_kept_serves_the_next_start_and_goes_when_it_is_done(tmp_path, cases):
    run, (case, *_) = tmp_path / "out" / "a", cases
    counting = partial(batch_processors.counting, "k1")
    assert run_batch([case], counting, BatchOptions(tmp_path / "out", run="a", quiet=True), IDENTITY) == 3
    assert [path.name for path in (run / ".kept" / case.id / "k1").iterdir()]
    assert run_batch([case], counting, BatchOptions(tmp_path / "out", resume="a", quiet=True), IDENTITY) == 0
    assert read_journal(run / "journal.jsonl")[case.id].row == {"before": 2}
    assert not (run / ".kept").exists()


def test_what_was_kept_under_another_key_is_not_taken(tmp_path, cases):
    case, options = cases[0], BatchOptions(tmp_path / "out", resume="a", quiet=True)
    first = BatchOptions(tmp_path / "out", run="a", quiet=True)
    run_batch([case], partial(batch_processors.counting, "k1"), first, IDENTITY)
    run_batch([case], partial(batch_processors.counting, "k2", 2), options, IDENTITY)
    assert read_journal(tmp_path / "out" / "a" / "journal.jsonl")[case.id].row == {"before": 0}
