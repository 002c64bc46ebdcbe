"""What data say of themselves, and what is taken where they say nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from pentad.core.errors import UsageError
from pentad.core.statement import FILE, Statement, raw_statement, read_statement


@dataclass(frozen=True)
class Sounds(Statement):
    classes: tuple[str, ...] = ()


def test_what_prepare_wrote_is_read_again(tmp_path):
    said = Sounds("Streets", True, "CC0-1.0", ("dog", "rain"))
    said.save(tmp_path)
    assert read_statement(tmp_path / "cases.jsonl", Sounds) == said


@pytest.mark.parametrize("content", [None, "", "[]", '{"synthetic": true}', '{"name": "a", "licences": "b"}'])
def test_a_prepared_folder_that_does_not_say_what_it_holds_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(UsageError, match=r"PTD-206 .*prepare command"):
        read_statement(tmp_path / "cases.jsonl", Statement)


@pytest.mark.parametrize("content", [None, "", "[1]", '{"numTraining": 3}'])
def test_raw_data_that_say_nothing_are_real_and_named_by_their_folder(content, tmp_path):
    folder = tmp_path / "LiTS"
    folder.mkdir()
    (folder / "one.csv").write_text("")
    if content is not None:
        (folder / FILE).write_text(content)
    wanted = Sounds("LiTS", synthetic=False, licence="not stated")
    assert raw_statement(folder, Sounds) == raw_statement(folder / "one.csv", Sounds) == wanted


def test_raw_data_are_synthetic_only_if_they_say_just_that(tmp_path):
    for word, wanted in ((True, True), ("yes", False), (1, False)):
        (tmp_path / FILE).write_text(json.dumps({"name": "made", "synthetic": word, "licence": "CC0-1.0"}))
        assert raw_statement(tmp_path, Statement) == Statement("made", wanted, "CC0-1.0")
