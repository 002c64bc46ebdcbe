from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from pentad.core.cases import Rejection
from pentad.core.errors import UsageError
from pentad.medical.privacy import default_key_file, hidden, hide_patients, load_key, pseudonym, traces


def test_a_key_is_made_at_first_use_and_kept(tmp_path):
    path = tmp_path / "config" / "key"
    assert load_key(path) == load_key(path)


def test_only_the_owner_may_read_the_key(tmp_path):
    load_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_two_keys_differ(tmp_path):
    assert load_key(tmp_path / "one") != load_key(tmp_path / "two")


def test_the_key_stands_in_the_configuration_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    load_key()
    assert default_key_file() == tmp_path / "pentad" / "pseudonym.key"
    assert default_key_file().is_file()


def test_a_key_that_cannot_be_made_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^PTD-417 .*--key-file\.$"):
        load_key(tmp_path / "file" / "key")


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("secret")
    with pytest.raises(UsageError, match="PTD-418"):
        load_key(tmp_path / "key")


def test_an_unfinished_key_leaves_nothing_behind(tmp_path):
    load_key(tmp_path / "key")
    assert os.listdir(tmp_path) == ["key"]  # noqa: PTH208


def test_pseudonyms_repeat_under_one_key_and_differ_under_another():
    one, other = b"k" * 32, b"o" * 32
    assert pseudonym("1.2.3", one) == pseudonym("1.2.3", one)
    assert pseudonym("1.2.3", one) != pseudonym("1.2.3", other)
    assert pseudonym("1.2.3", one) != pseudonym("1.2.4", one)


def test_a_pseudonym_is_the_head_of_the_keyed_hash():
    # RFC 4231, test case 2: HMAC-SHA256 of this text under the key "Jefe".
    assert pseudonym("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60"


KEY = b"k" * 32
NAMES = traces(["Doe^Jane^Maria", "HN-77/12", "Al"])


@pytest.mark.parametrize(
    "name",
    [
        "DOE_JANE/1.dcm",
        "jane-doe/1.dcm",
        "JaneDoe.dcm",
        "x/Doe Jane Maria (CT)/1",
        "HN-77_12.dcm",
        "hn7712/1.dcm",
        "1.2.840.113619.2.55.3.1/1.dcm",
        "2019-05-17/1.dcm",
        "CT 17.05.2019 a.dcm",
        "20190517103000.dcm",
    ],
)
def test_traces_of_a_patient_are_hidden_in_every_spelling(name):
    shown = hidden(name, NAMES, KEY)
    assert not re.search(r"doe|jane|hn.?77|7712|113619|2019", shown, re.IGNORECASE)
    assert shown.count("/") == name.count("/")
    assert Path(shown).suffix == Path(name).suffix


@pytest.mark.parametrize(
    "name", ["CT5N/2392", "IM-0001-0012.dcm", "al/series 2/README.md", "janet/doeling.dcm", "12.5.dcm"]
)
def test_names_that_tell_nobody_stay_as_they_are(name):
    assert hidden(name, NAMES, KEY) == name


def test_equal_traces_get_equal_pseudonyms():
    assert hidden("Doe/1", NAMES, KEY)[:12] == hidden("doe/2", NAMES, KEY)[:12] != hidden("Jane/1", NAMES, KEY)[:12]


def test_the_words_of_a_reason_are_left_alone():
    item = Rejection(
        where="missing/1.dcm", code="PTD-336", reason="missing/1.dcm is missing.", files=("missing/1.dcm",)
    )
    (shown,) = hide_patients([item], (), ["Missing^Anna"], KEY)
    assert shown.reason == f"{shown.where} is missing."
    assert shown.files == (shown.where,)
    assert shown.where != item.where
