from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pentad.core.batch.shards import Shard, parse_shard
from pentad.core.errors import UsageError


@given(st.sets(st.text(max_size=5), max_size=40), st.integers(1, 9), st.randoms())
def test_the_parts_hold_every_item_once_whatever_the_order(items, count, chance):
    shuffled = list(items)
    chance.shuffle(shuffled)
    parts = [Shard(index, count).select(shuffled, str) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert parts == [Shard(index, count).select(sorted(items), str) for index in range(1, count + 1)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="PTD-246"):
        parse_shard(text, {})


@pytest.mark.parametrize(
    ("task", "first", "step", "expected"), [("1", "1", "1", "1/4"), ("3", "0", "1", "4/4"), ("9", "3", "2", "4/4")]
)
def test_a_slurm_array_task_knows_its_part(task, first, step, expected):
    names = ("ID", "MIN", "STEP", "COUNT")
    environment = {f"SLURM_ARRAY_TASK_{name}": text for name, text in zip(names, (task, first, step, "4"), strict=True)}
    assert str(parse_shard("slurm", environment)) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_ARRAY_TASK_ID": "1"},
        {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "2"},
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
    ],
)
def test_an_irregular_slurm_array_is_refused(environment):
    with pytest.raises(UsageError, match="PTD-247"):
        parse_shard("slurm", environment)


def test_a_part_has_its_own_folder_name_given_once():
    assert [Shard(2, 8).name(name) for name in ("a", "a-2of8")] == ["a-2of8", "a-2of8"]
    assert Shard().name("a") == "a"
