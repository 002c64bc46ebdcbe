"""The parts of a batch run by themselves: why a case failed, how a worker ended, what a run will cost, its names."""

from __future__ import annotations

import errno
import inspect
import json
import re
import resource
import signal
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import call

from pentad.core.batch import BatchOptions, Cost, casework, dry_run, folder, kept_folder, planning, workers, worklist
from pentad.core.batch import run as batch_run
from pentad.core.batch.casework import CaseResult, explain, is_full, work_on
from pentad.core.batch.journal import CaseRecord
from pentad.core.batch.resuming import files_match, reasons_to_do
from pentad.core.batch.workers import Limits, LocalEngine, Workers
from pentad.core.cases import Case
from pentad.core.errors import CaseError
from pentad.core.files import digest_file
from pentad.core.options import of_batch_run

CASE = Case(id="a")


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_what_a_case_gives_is_checked_cleaned_and_sealed(tmp_path):
    def process(case, place):
        (place / "inner").mkdir()
        (place / "inner" / "b.txt").write_text("b")
        return CaseResult({"kind": "two\nlines \ud800", "count": True, "volume": 1.5}, ["odd\nflag"])

    outcome = work_on(process, CASE, tmp_path / "new" / "a")
    assert (outcome.code, outcome.reason, outcome.frames) == ("", "", ())
    assert outcome.row == {"kind": "two lines ?", "count": 1, "volume": 1.5}
    assert [type(value) for value in outcome.row.values()] == [str, int, float]
    assert outcome.flags == ["odd flag"]
    assert outcome.files == {"inner/b.txt": digest_file(tmp_path / "new" / "a" / "inner" / "b.txt")}
    assert 0 <= outcome.seconds < 60
    assert len(outcome.input) == 64


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (CaseResult({"volume": None}), "the column 'volume' holds a NoneType, not a text or a number"),
        (CaseResult({"volume": float("inf")}), "the column 'volume' is not a finite number"),
        (CaseResult({7: 1}), "the column name 7 is taken"),
        (CaseResult(flags=[3]), "a flag is no text"),
        ({}, "the result is a dict, not a CaseResult"),
    ],
)
def test_a_result_that_no_worklist_can_hold_fails_the_case(result, words, tmp_path):
    outcome = work_on(lambda case, place: result, CASE, tmp_path / "a")
    assert outcome.code == "PTD-306"
    assert words in outcome.reason
    assert outcome.files == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_told_from_other_errors_of_the_system(number):
    assert is_full(OSError(number, "no room"))
    assert not is_full(OSError(errno.EACCES, "no right"))
    assert not is_full(ValueError(number))
    assert explain(raised(ValueError("JANE"), OSError(number, "no room")))[0] == "PTD-301"


def test_memory_that_did_not_suffice_is_known_by_its_class_or_torchs_words():
    torchs = type("OutOfMemoryError", (RuntimeError,), {})
    for error in (MemoryError(), torchs("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate")):
        code, reason, frames = explain(raised(error))
        assert (code, reason.startswith("the memory did not suffice")) == ("PTD-302", True)
        assert frames[-1].endswith(" raised")
    assert explain(raised(ValueError("DefaultCPUAllocator")))[0] == "PTD-300"


def test_an_input_that_vanished_is_named_by_its_role_and_other_files_are_not(tmp_path):
    case = Case(id="a", files={"image": str(tmp_path / "in"), "label": str(tmp_path / "label")})
    gone = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "in" / "1.dcm"))
    assert explain(raised(ValueError(), gone), case)[0] == "PTD-300"
    code, reason, frames = explain(raised(gone), case)
    assert (code, "the input 'image' cannot be read" in reason, frames) == ("PTD-305", True, ())
    other = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "model"))
    assert explain(raised(other), case)[0] == "PTD-300"


def test_an_unexpected_error_names_its_kinds_and_places_but_never_its_words(tmp_path):
    code, reason, frames = explain(raised(KeyError("JANE"), ValueError("DOE")), CASE, tmp_path / "a")
    assert (code, "unexpected KeyError from ValueError;" in reason) == ("PTD-300", True)
    assert "JANE" not in reason + "".join(frames)
    hidden = raised(TypeError())
    hidden.__context__, hidden.__suppress_context__ = ValueError(), True
    assert "unexpected TypeError;" in explain(hidden)[1]
    hidden.__suppress_context__ = False
    assert "unexpected TypeError from ValueError;" in explain(hidden)[1]


def deep(times):
    if times:
        deep(times - 1)
    raise ValueError("the bottom")


def test_of_a_deep_trace_the_innermost_thirty_places_are_kept():
    with pytest.raises(ValueError, match="the bottom") as caught:
        deep(50)
    frames = explain(caught.value)[2]
    assert len(frames) == 30
    assert all(re.fullmatch(r"\S+:\d+ deep", frame) for frame in frames)


@pytest.mark.parametrize(("most", "code"), [((1 << 16) - 1, "PTD-301"), (1 << 16, "PTD-300")])
def test_a_writer_that_hides_a_full_disk_is_seen_through(tmp_path, most, code):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))
    try:
        assert explain(raised(ValueError()), CASE, tmp_path / "a")[0] == code
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert explain(raised(ValueError()), CASE)[0] == "PTD-300"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_speaks_for_itself_with_its_place():
    assert explain(raised(CaseError("PTD-999", "it is flat", "use another", "scan"))) == (
        "PTD-999",
        "scan: it is flat; use another.",
        (),
    )
    assert explain(raised(CaseError("PTD-999", "it is flat", "use another")))[1] == "it is flat; use another."


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "closed its connection"),
        (0, "ended by itself with exit status 0"),
        (7, "ended by itself with exit status 7"),
        (-signal.SIGKILL, "was killed by SIGKILL, as the system does when memory runs out"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-200, "was killed by signal 200"),
    ],
)
def test_the_end_of_a_worker_is_told_in_words(status, words):
    assert workers._describe_end(status) == words


def test_a_native_crash_gives_its_frames_outermost_first_without_folders(tmp_path):
    note = tmp_path / "crash.txt"
    assert workers._crash_frames(note) == ()
    other = 'Thread 0x1:\n  File "/x/wait.py", line 1 in wait\n\n'
    mine = 'Current thread 0x2:\n  File "/home/jane/inner.py", line 9 in read\n  File "outer.py", line 3 in main\n\n'
    note.write_text(f"Fatal Python error\n\n{other}{mine}Extension modules: a")
    assert workers._crash_frames(note) == ("outer.py:3 main", "inner.py:9 read")
    note.write_text('File "alone.py", line 2 in f')
    assert workers._crash_frames(note) == ("alone.py:2 f",)


@pytest.mark.parametrize(("count", "cores", "threads"), [(1, 8, 0), (2, 8, 4), (3, 8, 2), (8, 8, 1), (9, 8, 1)])
def test_workers_share_the_processors_and_one_alone_keeps_them(count, cores, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: set(range(cores)))
    made = Workers(dict, Limits(count), tmp_path, print, LocalEngine())
    assert made._threads() == threads


def test_the_worklist_keeps_formulas_from_running_and_numbers_as_they_are():
    cells = ["=1+1", "+a", "-b", "@c", "\td", "-5", "+1e3", "a=b", "", 3, -2.5]
    assert [worklist.harmless(cell) for cell in cells] == [
        *["'=1+1", "'+a", "'-b", "'@c", "'\td"],
        *["-5", "+1e3", "a=b", "", 3, -2.5],
    ]


def test_problems_come_first_and_what_is_done_but_not_handed_on_counts_as_one():
    order = [
        CaseRecord(case="z", status="failed"),
        CaseRecord(case="y/1", status="rejected"),
        CaseRecord(case="x", status="pending"),
        CaseRecord(case="v", status="ok", code="PTD-580"),
        CaseRecord(case="w", status="ok", flags=["odd"]),
        CaseRecord(case="a", status="ok"),
    ]
    assert worklist.worst_first(order[::-1]) == order


def test_names_of_runs_are_the_array_job_or_the_time(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "123")
    assert folder.default_name() == "slurm-123"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1x")
    assert re.fullmatch(r"20\d{6}-\d{6}-\d{3}", folder.default_name())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", folder.utc_now())
    assert folder.check_name("a" * 128)
    for name in ("", "a" * 129, ".a", "a b"):
        with pytest.raises(folder.UsageError, match="PTD-240"):
            folder.check_name(name)


def test_files_match_by_their_digests_alone(tmp_path):
    assert not files_match(tmp_path / "none", {})
    (tmp_path / "a.txt").write_text("a")
    assert files_match(tmp_path, {"a.txt": digest_file(tmp_path / "a.txt")})
    assert not files_match(tmp_path, {"a.txt": "0"})
    assert not files_match(tmp_path, {"b.txt": "0"})


def test_the_cost_of_a_run_is_told_for_people_and_programs(tmp_path, capsys, monkeypatch):
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "in" / "below" / "1.bin").write_bytes(b"x" * 1_500_000)
    (tmp_path / "in" / "2.bin").write_bytes(b"x" * 1_000_000)
    case = Case(id="a", files={"source": str(tmp_path / "in")})
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda place: SimpleNamespace(free=1_000_000_000))
    options = BatchOptions(tmp_path / "out", run="r", workers=2)
    assert dry_run([case], options, {}, cost=Cost(bytes=999_000_000, seconds=90)) == 0
    *_, told = capsys.readouterr().out.splitlines()
    assert told == "1 of 1 cases to do, 0 rejected; reads 2.5 MB, writes about 999.0 MB (1.0 GB free), about 0.8 min"
    assert dry_run([case], options, {}) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 cases to do, 0 rejected; reads 2.5 MB (1.0 GB free)"
    options = BatchOptions(tmp_path / "out", run="r", workers=4, json_lines=True)
    assert dry_run([case], options, {}, cost=Cost(bytes=10, seconds=90)) == 0
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["input_bytes"], first["done"], first["reason"]) == (2_500_000, False, "new")
    assert last == {
        **{"event": "plan.sum", "to_do": 1, "total": 1, "rejected": 0, "input_bytes": 2_500_000},
        **{"output_bytes": 10, "free_bytes": 1_000_000_000, "s": 22.5},
    }


def test_the_options_of_the_command_line_are_the_settings_with_their_defaults():
    def verb(inputs: str, *, model: str = "m", batch: BatchOptions) -> None:
        """Do."""
        got.append((inputs, model, batch))

    got = []
    command = of_batch_run(verb)
    shown = inspect.signature(command).parameters
    assert list(shown)[:3] == ["inputs", "out", "model"]
    defaults = {field.name: field.default for field in fields(BatchOptions)}
    given = {name: shown[name].default for name in defaults if name in shown and name != "out"}
    assert given == {name: defaults[name] for name in given}
    assert set(defaults) - set(given) == {"out", "notice"}
    assert given == {
        **{"run": "", "resume": "", "overwrite": False, "workers": 1, "engine": "local", "shard": "1/1"},
        **{"strict": False, "max_failures": 0, "case_timeout": 0.0, "json_lines": False, "quiet": False},
    }
    command(inputs="in", out=Path("out"), **given)
    assert got == [("in", "m", BatchOptions(Path("out")))]


@pytest.mark.parametrize(("option", "value"), [("--workers", 0), ("--max-failures", -1), ("--case-timeout", -1)])
def test_an_option_below_its_least_value_ends_the_call(option, value, tmp_path):
    done = call("nlp", "predict", tmp_path, "-o", tmp_path / "out", "--model", "m", f"{option}={value}")
    assert done.code == 2
    assert option in done.sentence()


def test_case_records_are_empty_until_told_otherwise():
    assert CaseRecord(case="a", status="ok").model_dump() == {
        **{"case": "a", "status": "ok", "code": "", "reason": "", "flags": [], "row": {}, "seconds": 0.0},
        **{"input": "", "identity": {}, "files": {}, "time": "", "sent": {}},
    }
    state = folder.RunState("r")
    assert (state.status, state.exit_code, state.seconds, state.starts, state.shard) == ("running", None, 0.0, 0, "1/1")
    assert casework.Outcome() == casework.Outcome("", "", {}, [], {}, "", 0.0, ())
    assert planning.Cost() == Cost(0, 0.0)


def test_an_empty_file_is_no_missing_one(tmp_path, capsys):
    (tmp_path / "a.bin").touch()
    options = BatchOptions(tmp_path / "out", run="r", json_lines=True)
    assert dry_run([Case(id="a", files={"image": str(tmp_path / "a.bin")})], options, {}) == 0
    assert [json.loads(line)["input_bytes"] for line in capsys.readouterr().out.splitlines()] == [0, 0]
    assert planning.input_size(Case(id="a", files={"image": str(tmp_path / "none")})) == -1


def test_what_a_case_keeps_lies_under_the_beginning_of_its_key(tmp_path):
    scratch = tmp_path / "run" / ".work" / "case-1"
    first = kept_folder(scratch, CASE, "k" * 64)
    assert first == tmp_path / "run" / ".kept" / "a" / ("k" * 32)
    assert kept_folder(scratch, CASE, "k" * 64).is_dir()
    assert kept_folder(scratch, CASE, "l" * 64).is_dir()
    assert not first.exists()


@pytest.mark.parametrize(("taken", "pause"), [(0.01, 5.0), (0.1, 5.0), (2.0, 100.0)])
def test_the_worklist_is_written_again_after_five_seconds_or_fifty_times_what_it_took(
    taken, pause, tmp_path, monkeypatch
):
    now = SimpleNamespace(seconds=100.0)

    def write(path, records):
        written.append(path.name)
        now.seconds += taken

    written = []
    monkeypatch.setattr(batch_run, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(batch_run, "write_worklist", write)
    run = batch_run.BatchRun(tmp_path, BatchOptions(tmp_path), {}, None)
    run._refresh_worklist()
    assert run.next_worklist == pytest.approx(100 + pause)
    now.seconds = 100 + pause - 0.001
    run._refresh_worklist()
    now.seconds = 100 + pause
    run._refresh_worklist()
    assert written == ["worklist.csv"] * 2


def test_cases_are_looked_at_until_the_run_is_interrupted(tmp_path):
    cases = [Case(id=name) for name in "abcd"]
    assert reasons_to_do(tmp_path, cases, {}, {}) == dict.fromkeys("abcd", "new")
    answers = iter([True, True, False])
    assert reasons_to_do(tmp_path, cases, {}, {}, lambda: next(answers)) == dict.fromkeys("ab", "new")
