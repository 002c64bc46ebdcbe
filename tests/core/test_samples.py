"""Which folders `pentad samples` writes anew, and which it leaves alone."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pentad.core.errors import UsageError
from pentad.core.samples import tree_digest, write_samples

CALLS = []


def write(root: Path) -> None:
    CALLS.append(root)
    for name in ("sounds", "posts"):
        (root / "pulse" / name).mkdir(parents=True)
        (root / "pulse" / name / "a.txt").write_text(name)


@pytest.fixture
def writers(monkeypatch):
    CALLS.clear()
    entry = EntryPoint("pulse", f"{__name__}:write", "pentad.samples")
    monkeypatch.setattr(EntryPoint, "load", lambda self: write)
    monkeypatch.setattr("pentad.core.samples.entry_points", lambda group: [entry])


def test_samples_are_written_once_and_again_only_where_they_were_changed(writers, tmp_path):
    data = tmp_path / "data"
    write_samples(data)
    first = tree_digest(data)
    write_samples(data)
    assert len(CALLS) == 1
    (data / "pulse" / "sounds" / "a.txt").write_text("changed")
    write_samples(data)
    assert (len(CALLS), tree_digest(data)) == (2, first)
    (data / "pulse" / "posts" / "more.txt").write_text("")
    write_samples(data)
    assert (len(CALLS), tree_digest(data)) == (3, first)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.samples.json", "data"]


def test_other_code_writes_them_again_and_a_users_folder_stays(writers, tmp_path, monkeypatch):
    data = tmp_path / "data"
    write_samples(data)
    (data / "pulse" / "mine").mkdir()
    (data / "pulse" / "mine" / "scan.nii").write_text("real")
    monkeypatch.setattr("pentad.core.samples.code_version", lambda: {"source": "another"})
    write_samples(data)
    assert len(CALLS) == 2
    assert (data / "pulse" / "mine" / "scan.nii").read_text() == "real"


def test_a_writer_that_fails_leaves_the_old_samples_whole(writers, tmp_path, monkeypatch):
    data = tmp_path / "data"
    write_samples(data)
    before = tree_digest(data)

    def fail(root):
        (root / "pulse" / "sounds").mkdir(parents=True)
        raise OSError("no space left")

    monkeypatch.setattr(EntryPoint, "load", lambda self: fail)
    monkeypatch.setattr("pentad.core.samples.code_version", lambda: {"source": "another"})
    with pytest.raises(OSError, match="no space"):
        write_samples(data)
    assert tree_digest(data) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.samples.json", "data"]


def test_without_a_package_that_brings_samples_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("pentad.core.samples.entry_points", lambda group: [])
    with pytest.raises(UsageError, match=r"PTD-222 .*pentad-medical"):
        write_samples(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_tree_is_of_names_and_contents(tmp_path):
    digests = set()
    for name, text in (("a", "x"), ("b", "x"), ("a", "y")):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        (folder / name).write_text(text)
        digests.add(tree_digest(folder))
    assert len(digests) == 3
