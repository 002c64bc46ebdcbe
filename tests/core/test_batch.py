from __future__ import annotations

import csv
import json
import os
from functools import partial
from pathlib import Path

import pytest
from core import batch_processors

import pentad.core
from pentad.core.batch import BatchOptions, Cost, dry_run, run_batch
from pentad.core.cases import Case, Rejection
from pentad.core.errors import ModelError, UsageError

IDENTITY = {"model": "m1", "config": "c1"}
SCHEMA = Path(pentad.core.__path__[0]) / "run_schema.json"


def make_cases(folder: Path, count: int) -> list[Case]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(str(number))
    return [Case(id=f"c{number:02d}", files={"image": str(folder / f"{number}.txt")}) for number in range(count)]


def misbehaving_cases(folder: Path, *targets: str) -> list[Case]:
    cases = make_cases(folder, len(targets))
    return [case.model_copy(update={"target": target}) for case, target in zip(cases, targets, strict=True)]


def worklist(run: Path) -> list[dict[str, str]]:
    with (run / "worklist.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def everything_below(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def doubling(tmp_path):
    return partial(batch_processors.doubling, tmp_path / "seen.txt")


def test_a_long_case_shows_how_much_of_it_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pentad.core.batch.progress._INTERVAL", 0.2)
    cases = make_cases(tmp_path / "in", 1)
    assert run_batch(cases, batch_processors.telling, BatchOptions(tmp_path / "out", run="a"), IDENTITY) == 0
    assert "0 of 1 cases and 25% of the next after" in capsys.readouterr().err


def test_a_good_run_leaves_files_records_and_exit_code_zero(tmp_path, doubling):
    cases = make_cases(tmp_path / "in", 4)
    code = run_batch(cases, doubling, BatchOptions(tmp_path / "out", run="a"), IDENTITY)
    run = tmp_path / "out" / "a"
    assert code == 0
    assert [(run / "cases" / case.id / "answer.txt").read_text() for case in cases] == ["0", "2", "4", "6"]
    rows = worklist(run)
    assert [row["id"] for row in rows] == ["c01", "c03", "c00", "c02"]  # flagged first
    assert [row["twice"] for row in rows] == ["2", "6", "0", "4"]
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [".lock", "cases", "events.jsonl", "index.html", "journal.jsonl", "rejected.jsonl", "run.json", "worklist.csv"]
    )


def conforms(value: object, schema: dict[str, object], where: str = "run.json") -> list[str]:
    """What of a value breaks the few JSON-Schema words that run_schema.json uses."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, kinds[kind]) for kind in wanted):
        return [f"{where} is {value!r}, not {wanted}"]
    wrong = [f"{where} lacks {key}" for key in schema.get("required", []) if key not in value]
    if "enum" in schema and value not in schema["enum"]:
        wrong.append(f"{where} is {value!r}")
    if isinstance(value, dict):
        extra = schema.get("additionalProperties", True)
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key, extra)
            if known is False:
                wrong.append(f"{where} has {key}")
            elif isinstance(known, dict):
                wrong += conforms(inner, known, f"{where}.{key}")
    return wrong


def test_run_json_keeps_to_its_published_schema(tmp_path, doubling):
    run_batch(make_cases(tmp_path / "in", 1), doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    schema = json.loads(SCHEMA.read_text())
    state = json.loads((tmp_path / "a" / "run.json").read_text())
    assert conforms(state, schema) == []
    assert conforms({**state, "status": "happy", "more": 1}, schema) == [
        "run.json.status is 'happy'",
        "run.json has more",
    ]


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("sigkill", "PTD-303", "killed by SIGKILL"),
        ("segfault", "PTD-303", "killed by SIGSEGV"),
        ("exit", "PTD-303", "exit status 7"),
        ("sys.exit", "PTD-300", "unexpected SystemExit"),
        ("raise", "PTD-300", "unexpected ValueError"),
        ("memory", "PTD-302", "memory did not suffice"),
        ("hang", "PTD-304", "not done after 0.5 s"),
        ("case error", "PTD-777", "s1/0003.dcm: slices are missing; send the study again."),
        ("wrong type", "PTD-306", "the result is a NoneType"),
        ("nan", "PTD-306", "'volume' is not a finite number"),
        ("own column", "PTD-306", "'status' is taken"),
        ("link", "PTD-306", "a result file is a link"),
        ("disk", "PTD-301", "the disk is full"),
        ("vanish", "PTD-305", "'image' cannot be read (No such file or directory)"),
    ],
)
def test_a_case_fails_alone_with_one_sentence_and_a_code(tmp_path, target, code, words):
    cases = misbehaving_cases(tmp_path / "in", "good", target, "good")
    options = BatchOptions(tmp_path / "out", run="a", case_timeout=0.5 if target == "hang" else 60)
    assert run_batch(cases, batch_processors.misbehaving, options, IDENTITY) == 3
    failed, *good = worklist(tmp_path / "out" / "a")
    assert (failed["id"], failed["status"], failed["code"]) == ("c01", "failed", code)
    assert words in failed["reason"]
    after = "ok" if code != "PTD-301" else "pending"  # a full disk would fail every further case
    assert {row["id"]: row["status"] for row in good} == {"c00": "ok", "c02": after}
    done = sorted(path.name for path in (tmp_path / "out" / "a" / "cases").iterdir())
    assert done == ["c00", "c02"][: 2 if after == "ok" else 1]


@pytest.mark.parametrize(("target", "fresh"), [("case error", False), ("memory", True), ("sigkill", True)])
def test_only_a_worker_in_doubt_is_replaced(tmp_path, target, fresh):
    cases = misbehaving_cases(tmp_path / "in", "good", target, "good")
    run_batch(cases, batch_processors.misbehaving, BatchOptions(tmp_path, run="a"), IDENTITY)
    _, first, last = worklist(tmp_path / "a")
    assert (first["pid"] != last["pid"]) == fresh
    assert str(os.getpid()) not in (first["pid"], last["pid"])


def test_no_message_of_an_unexpected_exception_and_no_chatter_is_kept(tmp_path, capfd):
    cases = misbehaving_cases(tmp_path / "in", "raise", "good")
    run_batch(cases, batch_processors.misbehaving, BatchOptions(tmp_path / "out", run="a"), IDENTITY)
    shown = capfd.readouterr()
    kept = everything_below(tmp_path / "out")
    assert "JANE" not in kept + shown.out + shown.err
    assert "core.batch_processors:" in (tmp_path / "out" / "a" / "events.jsonl").read_text()
    assert "Traceback" not in kept + shown.err
    assert '"text": "slices were sorted"' in kept  # what our own code logs is passed on


def test_the_events_on_standard_output_are_those_of_the_file(tmp_path, doubling, capfd):
    cases = make_cases(tmp_path / "in", 2)
    run_batch(cases, doubling, BatchOptions(tmp_path / "out", run="a", json_lines=True), IDENTITY)
    printed = capfd.readouterr().out.splitlines()
    assert printed == (tmp_path / "out" / "a" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in printed]
    assert [event["event"] for event in events] == ["run.start", "case.done", "case.done", "run.end"]
    assert list(events[2]) == ["t", "level", "event", "case", "status", "flags", "s", "code"]
    assert [events[2][key] for key in ("case", "status", "flags", "code")] == ["c01", "ok", ["odd"], 0]


def test_rejected_inputs_stand_in_the_worklist_and_make_exit_code_3(tmp_path, doubling):
    refused = [Rejection(where="s9/notes.dcm", code="PTD-130", reason="not a DICOM file.")]
    code = run_batch(make_cases(tmp_path / "in", 1), doubling, BatchOptions(tmp_path, run="a"), IDENTITY, refused)
    assert code == 3
    first = worklist(tmp_path / "a")[0]
    assert (first["id"], first["status"], first["code"]) == ("s9/notes.dcm", "rejected", "PTD-130")


def test_no_case_at_all_is_exit_code_4_with_the_rejections_on_record(tmp_path, doubling, capfd):
    refused = [Rejection(where="a.txt", code="PTD-130", reason="not a DICOM file.")]
    assert run_batch([], doubling, BatchOptions(tmp_path, run="a", quiet=True), IDENTITY, refused) == 4
    assert "PTD-400" in capfd.readouterr().err
    assert [row["status"] for row in worklist(tmp_path / "a")] == ["rejected"]


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 3)])
def test_flags_count_only_in_a_strict_run(tmp_path, doubling, strict, code):
    cases = make_cases(tmp_path / "in", 2)
    assert run_batch(cases, doubling, BatchOptions(tmp_path, run="a", strict=strict), IDENTITY) == code


@pytest.mark.parametrize(
    ("setup", "code", "words"),
    [
        (batch_processors.refusing, 5, "PTD-501 nowhere: no bundle.json here; give a bundle."),
        (batch_processors.broken, 1, "PTD-309 the model's set-up raised KeyError"),
        (batch_processors.dying, 1, "PTD-309 workers end before their first case (ended by itself with exit status 9)"),
    ],
)
def test_a_set_up_that_fails_ends_the_run_and_can_be_resumed(tmp_path, doubling, capfd, setup, code, words):
    cases = make_cases(tmp_path / "in", 2)
    assert run_batch(cases, setup, BatchOptions(tmp_path, run="a", quiet=True), IDENTITY) == code
    assert words in capfd.readouterr().err
    assert {row["status"] for row in worklist(tmp_path / "a")} == {"pending"}
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="a"), IDENTITY) == 0


def test_the_run_stops_at_the_given_number_of_failures(tmp_path):
    cases = misbehaving_cases(tmp_path / "in", "good", "raise", "raise", "good", "good")
    options = BatchOptions(tmp_path, run="a", max_failures=2)
    assert run_batch(cases, batch_processors.misbehaving, options, IDENTITY) == 3
    assert [row["status"] for row in worklist(tmp_path / "a")] == ["failed", "failed", "pending", "pending", "ok"]


def test_a_run_folder_is_never_taken_unless_asked(tmp_path, doubling):
    cases = make_cases(tmp_path / "in", 1)
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    with pytest.raises(UsageError, match=r"PTD-242 .*resume it, give another name, or say --overwrite"):
        run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    assert run_batch(cases, doubling, BatchOptions(tmp_path, run="a", overwrite=True), IDENTITY) == 0
    assert (tmp_path / "seen.txt").read_text().split() == ["c00", "c00"]


def test_a_folder_that_is_no_run_is_never_emptied(tmp_path, doubling):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UsageError, match="PTD-242"):
        run_batch([], doubling, BatchOptions(tmp_path, run="thesis", overwrite=True), IDENTITY)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"run": "../x"}, "PTD-240"),
        ({"resume": "none"}, "PTD-243"),
        ({"resume": "a", "overwrite": True}, "PTD-244"),
        ({"resume": "a", "run": "b"}, "PTD-244"),
        ({"shard": "3/2"}, "PTD-246"),
        ({"workers": 0}, "PTD-248"),
        ({"case_timeout": float("nan")}, "PTD-248"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, doubling, settings, code):
    with pytest.raises(UsageError, match=code):
        run_batch([], doubling, BatchOptions(tmp_path / "out", **settings), IDENTITY)
    assert not (tmp_path / "out").exists()


def test_two_cases_of_one_id_are_refused(tmp_path, doubling):
    case = make_cases(tmp_path / "in", 1)[0]
    with pytest.raises(UsageError, match=r"PTD-249 the id 'c00' stands twice"):
        run_batch([case, case], doubling, BatchOptions(tmp_path), IDENTITY)


def test_an_output_folder_that_cannot_be_written_is_a_usage_error(tmp_path, doubling):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"PTD-241 .*cannot be written \(Not a directory\)"):
        run_batch([], doubling, BatchOptions(tmp_path / "file" / "out"), IDENTITY)


def test_a_read_only_output_folder_is_a_usage_error(tmp_path_factory, doubling):
    out = tmp_path_factory.mktemp("out")
    out.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        for folder in out.parents[:3]:  # one more where tests run in several processes
            folder.chmod(0o755)
        os.seteuid(65534)  # the superuser may write anywhere
    try:
        with pytest.raises(UsageError, match=r"PTD-241 .*cannot be written \(Permission denied\)"):
            run_batch([], doubling, BatchOptions(out, run="a"), IDENTITY)
    finally:
        os.seteuid(user)


def test_closing_work_sees_all_records_worst_first_and_its_error_counts(tmp_path):
    seen: list[str] = []

    def finish(folder: Path, records: list) -> None:
        seen.extend(f"{folder.name} {record.case} {record.status}" for record in records)
        raise ModelError("PTD-599", "no page", "look") if len(seen) > 2 else ValueError("JANE")

    cases = misbehaving_cases(tmp_path / "in", "good", "raise")
    setup = batch_processors.misbehaving
    assert run_batch(cases, setup, BatchOptions(tmp_path, run="a"), IDENTITY, finish=finish) == 1
    assert seen == ["a c01 failed", "a c00 ok"]
    assert run_batch(cases, setup, BatchOptions(tmp_path, resume="a"), IDENTITY, finish=finish) == 5


def test_a_dry_run_touches_nothing_and_tells_all(tmp_path, capfd):
    cases = make_cases(tmp_path / "in", 2)
    refused = [Rejection(where="a.txt", code="PTD-130", reason="not a DICOM file.")]
    options = BatchOptions(tmp_path / "out", run="a", workers=2)
    assert dry_run(cases, options, IDENTITY, refused, Cost(bytes=5_000_000, seconds=60)) == 3
    printed = capfd.readouterr().out
    assert f"would process c00 (new) to {tmp_path / 'out' / 'a' / 'cases' / 'c00'}" in printed
    assert "rejected a.txt: PTD-130 not a DICOM file." in printed
    assert "writes about 10.0 MB" in printed
    assert "about 1.0 min" in printed
    assert not (tmp_path / "out").exists()


def test_a_dry_resume_names_what_is_done_and_changes_no_file(tmp_path, doubling, capfd):
    cases = make_cases(tmp_path / "in", 3)
    run_batch(cases[:2], doubling, BatchOptions(tmp_path / "out", run="a"), IDENTITY)
    capfd.readouterr()
    before = everything_below(tmp_path / "out")
    Path(cases[1].files["image"]).write_text("41")
    assert dry_run(cases, BatchOptions(tmp_path / "out", resume="a", json_lines=True), IDENTITY) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [event.get("reason") for event in events] == ["", "the input changed", "new", None]
    assert everything_below(tmp_path / "out") == before


@pytest.mark.parametrize(("count", "missing", "code"), [(0, False, 4), (1, True, 3), (1, False, 0)])
def test_a_dry_run_has_the_exit_code_of_the_outlook(tmp_path, count, missing, code):
    cases = make_cases(tmp_path / "in", count)
    if missing:
        Path(cases[0].files["image"]).unlink()
    assert dry_run(cases, BatchOptions(tmp_path / "out", run="a"), IDENTITY) == code


def test_the_index_page_lists_the_worst_first_and_carries_the_notice(tmp_path, doubling):
    options = BatchOptions(tmp_path, run="a", notice="Mind: <b>this</b>")
    refused = [Rejection(where="<script>x", code="PTD-130", reason="no DICOM.")]
    run_batch(make_cases(tmp_path / "in", 1), doubling, options, IDENTITY, refused)
    text = (tmp_path / "a" / "index.html").read_text()
    assert text.index("&lt;script&gt;x") < text.index("c00")
    assert "<script" not in text
    assert "&lt;b&gt;this" in text
    assert IDENTITY["model"] in text
