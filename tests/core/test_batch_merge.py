from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from core import batch_processors

from pentad.core.batch import BatchOptions, merge, run_batch
from pentad.core.batch.folder import read_state
from pentad.core.cases import Case, Rejection
from pentad.core.errors import UsageError

IDENTITY = {"model": "m1"}


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt").write_text(str(number))
    return [Case(id=f"c{number:02d}", files={"image": str(tmp_path / "in" / f"{number}.txt")}) for number in range(5)]


@pytest.fixture
def doubling(tmp_path):
    return partial(batch_processors.doubling, tmp_path / "seen.txt")


def marks(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "seen.txt").read_text().split())


def test_shards_hold_every_case_once_and_merge_to_the_whole(tmp_path, cases, doubling):
    refused = [Rejection(where=name, code="PTD-130", reason="no DICOM.") for name in ("x", "y", "z")]
    for index in (1, 2):
        options = BatchOptions(tmp_path, run="a", shard=f"{index}/2")
        run_batch(cases[::-1], doubling, options, IDENTITY, refused)
    assert marks(tmp_path) == {case.id: 1 for case in cases}
    parts = [tmp_path / "a-1of2", tmp_path / "a-2of2"]
    assert merge(parts, tmp_path / "whole") == 3
    options = BatchOptions(tmp_path, run="single")
    run_batch(cases, doubling, options, IDENTITY, refused)
    columns = [
        [line.split(",")[:5] for line in (tmp_path / name / "worklist.csv").read_text().splitlines()]
        for name in ("whole", "single")
    ]
    assert columns[0] == columns[1]
    counts = [read_state(tmp_path / name).cases for name in ("whole", "single")]
    assert counts[0] == counts[1]
    assert counts[0].items() >= {"total": 5, "ok": 5, "failed": 0, "pending": 0, "rejected": 3}.items()
    assert run_batch(cases, doubling, BatchOptions(tmp_path, resume="whole"), IDENTITY) == 0
    assert set(marks(tmp_path).values()) == {2}  # by the single run alone: the merged one counted as done


def test_merging_refuses_what_does_not_belong_together(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a", shard="1/2"), IDENTITY)
    run_batch(cases, doubling, BatchOptions(tmp_path, run="b", shard="2/2"), {"model": "m2"})
    run_batch(cases, batch_processors.refusing, BatchOptions(tmp_path, run="c"), IDENTITY)
    first, other, stopped = (tmp_path / name for name in ("a-1of2", "b-2of2", "c"))
    (tmp_path / "d").mkdir()
    for runs, words in [
        ([], "PTD-250"),
        ([first, first], "PTD-251 .*'c00' is also in a-1of2"),
        ([first, other], "PTD-252"),
        ([tmp_path / "d"], "PTD-253"),
        ([stopped], "PTD-254 .*is stopped, not finished"),
        ([first], "PTD-255 the shards 2/2 are missing"),
    ]:
        with pytest.raises(UsageError, match=words):
            merge(runs, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_merging_refuses_a_changed_result_and_leaves_nothing(tmp_path, cases, doubling):
    run_batch(cases, doubling, BatchOptions(tmp_path, run="a"), IDENTITY)
    (tmp_path / "a" / "cases" / "c03" / "answer.txt").write_text("edited")
    with pytest.raises(UsageError, match=r"PTD-256 .*c03"):
        merge([tmp_path / "a"], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
