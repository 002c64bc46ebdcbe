"""Two hundred damaged studies in one batch run: no traceback, no hang, every file accounted for."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from command import SENTENCE, Result, everything_written, run
from medical.mutants import write_mutants

from pentad.medical.ingest import find_cases

pytestmark = pytest.mark.slow
COUNT = 200


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Result, Path]:
    work = tmp_path_factory.mktemp("mutants")
    write_mutants(work / "in", COUNT, seed=1)
    options = ("--run", "r", "--model", "threshold", "--key-file", work / "key", "--outputs", "nifti,seg,sr")
    limits = ("--case-timeout", 60, "--workers", 1)
    return run("medical", "predict", work / "in", "-o", work, *options, *limits, timeout=900), work


def worklist(work: Path) -> list[dict[str, str]]:
    with (work / "r" / "worklist.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_run_ends_by_itself_without_a_trace_of_the_program(done):
    result, work = done
    assert result.code == 3
    assert "Traceback" not in result.out + result.err + everything_written(work / "r")
    assert json.loads((work / "r" / "run.json").read_text())["status"] == "finished"


def test_every_failure_is_foreseen_and_one_sentence(done):
    _, work = done
    wrong = [row for row in worklist(work) if row["status"] != "ok"]
    codes = Counter(row["code"] for row in wrong)
    assert not codes.keys() & {"PTD-300", "PTD-302", "PTD-303", "PTD-304"}, codes
    assert all(SENTENCE.fullmatch(f"{row['code']} {row['reason']}") for row in wrong)


def test_every_case_and_every_file_is_accounted_for(done):
    _, work = done
    cases, _ = find_cases(work / "in", key_file=work / "key")
    rows = {row["id"]: row["status"] for row in worklist(work) if row["status"] != "rejected"}
    assert rows.keys() == {case.id for case in cases}
    told = [
        name
        for kind in ("rejected", "left_aside")
        for line in (work / "r" / f"{kind}.jsonl").read_text().splitlines()
        for name in json.loads(line)["files"]
    ]
    there = sum(path.is_file() for path in (work / "in").rglob("*"))
    assert len(told) == there - sum(len(case.files) for case in cases)


def test_some_studies_survive_and_their_results_are_whole(done):
    _, work = done
    good = [row["id"] for row in worklist(work) if row["status"] == "ok"]
    assert COUNT // 10 < len(good) < COUNT
    written = {path.name for name in good for path in (work / "r" / "cases" / name).iterdir()}
    assert written == {"label.nii.gz", "seg.dcm", "sr.dcm", "volumes.json", "qc.json"}
    assert len(list((work / "r" / "cases").iterdir())) == len(good)
