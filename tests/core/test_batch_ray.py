"""Batch runs with workers on a Ray cluster of this machine: as the local engine's, to the byte and to the code."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from core import batch_processors
from core.batch_results import results

from pentad.core.batch import BatchOptions, run_batch
from pentad.core.batch.journal import read_journal
from pentad.core.cases import Case, write_cases
from pentad.core.errors import UsageError

pytest.importorskip("ray")
IDENTITY = {"model": "m1"}


def make_cases(folder: Path, *targets: str) -> list[Case]:
    folder.mkdir()
    for number in range(len(targets)):
        (folder / f"{number}.txt").write_text(str(number))
    names = enumerate(targets)
    return [Case(id=f"c{n}", files={"image": str(folder / f"{n}.txt")}, target=target) for n, target in names]


@pytest.fixture(scope="module")
def cluster():
    """One for all tests, which takes seconds to start; a batch run uses the one that it finds connected."""
    from pentad.core.batch.ray_engine import connected

    with connected():
        yield


def ray_run(cases, setup, out, **options):
    return run_batch(cases, setup, BatchOptions(out, engine="ray", workers=2, **options), IDENTITY)


def test_both_engines_give_the_same_files_and_rows(cluster, tmp_path):
    cases = make_cases(tmp_path / "in", *[""] * 5)
    Path(cases[3].files["image"]).write_text("no number")
    setup = partial(batch_processors.doubling, tmp_path / "seen.txt")
    assert ray_run(cases, setup, tmp_path / "out", run="ray") == 3
    local = BatchOptions(tmp_path / "out", run="local", workers=2)
    assert run_batch(cases, setup, local, IDENTITY) == 3
    assert results(tmp_path / "out" / "ray") == results(tmp_path / "out" / "local")
    state = json.loads((tmp_path / "out" / "ray" / "run.json").read_text())
    assert (state["options"]["engine"], state["cases"]["failed"]) == ("ray", 1)


def test_a_worker_killed_in_mid_run_costs_its_case_alone_and_resuming_does_it(cluster, tmp_path, capfd):
    cases = make_cases(tmp_path / "in", "good", "sigkill", "good", "hang", "good", "good")
    assert ray_run(cases, batch_processors.misbehaving, tmp_path / "out", run="a", case_timeout=3) == 3
    first = read_journal(tmp_path / "out" / "a" / "journal.jsonl")
    codes = {name: record.code for name, record in sorted(first.items())}
    assert codes == {"c0": "", "c1": "PTD-303", "c2": "", "c3": "PTD-304", "c4": "", "c5": ""}
    assert {record.row["pid"] for record in first.values() if record.status == "ok"}.isdisjoint({os.getpid()})
    mended = [case.model_copy(update={"target": "good"}) for case in cases]
    assert ray_run(mended, batch_processors.misbehaving, tmp_path / "out", resume="a") == 0
    then = read_journal(tmp_path / "out" / "a" / "journal.jsonl")
    assert sorted(then) == [case.id for case in cases]
    assert all(then[name] == first[name] for name in ("c0", "c2", "c4", "c5"))  # done once, not again
    assert "DOE^JANE" not in "".join(capfd.readouterr())


def test_what_the_packages_log_in_a_worker_is_an_event(cluster, tmp_path):
    cases = make_cases(tmp_path / "in", "good")
    assert ray_run(cases, batch_processors.misbehaving, tmp_path / "out", run="a") == 0
    assert "slices were sorted" in (tmp_path / "out" / "a" / "events.jsonl").read_text()


@pytest.mark.parametrize(("setup", "code"), [("refusing", 5), ("broken", 1), ("dying", 1)])
def test_a_model_that_cannot_be_set_up_ends_the_run_in_a_sentence(cluster, tmp_path, capfd, setup, code):
    cases = make_cases(tmp_path / "in", "good", "good")
    assert ray_run(cases, getattr(batch_processors, setup), tmp_path / "out", run="a") == code
    assert ("PTD-501" if code == 5 else "PTD-309") in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_starts_its_own_cluster_and_stops_when_asked_to(tmp_path):
    table, run = tmp_path / "cases.jsonl", tmp_path / "out" / "a"
    write_cases(table, make_cases(tmp_path / "in", *[""] * 40))
    driver = [sys.executable, "-m", "core.batch_driver", str(table), str(tmp_path / "out"), "--engine", "ray"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([*driver, "--run", "a", "--delay", "0.2"], env=environment)
    limit = time.monotonic() + 240
    while not (run / "journal.jsonl").is_file() or not (run / "journal.jsonl").read_bytes():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert 0 < len(read_journal(run / "journal.jsonl")) < 40
    assert not list(run.glob(".work"))


def test_an_unknown_engine_and_a_missing_ray_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"PTD-237 'rayy' is no engine \(did you mean 'ray'\?\)"):
        BatchOptions(tmp_path, engine="rayy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"PTD-238 Ray is not installed; install it with pip install 'pentad-core"):
        BatchOptions(tmp_path, engine="ray")


def test_processors_are_shared_out_so_that_all_workers_find_room():
    from pentad.core.batch.ray_engine import share

    assert share([2], 1) == 2
    assert share([2], 2) == share([2], 5) == 1
    assert share([16, 16], 3) == 8  # of 10 each only two would fit
    assert share([], 2) == 1
