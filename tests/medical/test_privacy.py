from __future__ import annotations

import os
import stat

import pytest

from pentad.core.errors import UsageError
from pentad.medical.privacy import default_key_file, load_key, pseudonym


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
