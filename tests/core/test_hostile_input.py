"""What comes from elsewhere and means harm: run folders, names, links, archives, pickles."""

from __future__ import annotations

import ast
import csv
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from core import batch_processors
from torch import nn

from pentad.core.batch import BatchOptions, CaseRecord, merge, run_batch
from pentad.core.batch.journal import LineFile, read_journal, write_record
from pentad.core.batch.worklist import harmless, write_worklist
from pentad.core.bundle import PublishedModel, load_bundle, save_bundle
from pentad.core.cases import Case, Rejection
from pentad.core.errors import CaseError, ModelError, UsageError
from pentad.core.files import digest_file, digest_json

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Size:
    width: int = 2


class Line(PublishedModel):
    def __init__(self, config: Size) -> None:
        super().__init__(config)
        self.line = nn.Linear(config.width, 1)


@pytest.fixture
def done(tmp_path):
    """A finished run of one case, what repeats it, and a secret beside it."""
    (tmp_path / "1.txt").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    cases = [Case(id="c", files={"image": str(tmp_path / "1.txt")})]
    setup = partial(batch_processors.doubling, tmp_path / "seen.txt")

    def repeat(**options):
        return run_batch(cases, setup, BatchOptions(tmp_path / "out", **options), {"model": "m"})

    assert repeat(run="a") == 0
    return tmp_path / "out" / "a", repeat


@pytest.mark.parametrize(
    "change",
    [
        {"case": "../../../up"},
        {"case": "/up"},
        {"files": {"../../../../secret.txt": ""}},
        {"files": {"/etc/passwd": ""}},
    ],
)
def test_a_journal_that_names_what_lies_outside_its_run_is_not_believed(done, tmp_path, change):
    run, _ = done
    content = {**read_journal(run / "journal.jsonl")["c"].model_dump(mode="json"), **change}
    line = json.dumps({**content, "check": digest_json(content)[:16]})
    (run / "journal.jsonl").write_text(line + "\n")
    before = {path for path in tmp_path.rglob("*") if run not in path.parents}
    with pytest.raises(UsageError, match=r"PTD-256 .*lacks 1 of its 1 cases"):
        merge([run], tmp_path / "joined")
    assert {path for path in tmp_path.rglob("*") if run not in path.parents} == before


def test_a_place_with_dots_may_be_rejected_but_never_a_case():
    CaseRecord(case="../odd name.dcm", status="rejected")
    with pytest.raises(ValueError, match="id that is none"):
        CaseRecord(case="../odd", status="failed")


def test_emptying_a_run_and_replacing_a_case_leave_alone_what_links_point_to(done, tmp_path):
    run, repeat = done
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept.txt").write_text("kept")
    (run / "link").symlink_to(tmp_path / "mine")
    assert repeat(run="a", overwrite=True) == 0
    assert not (run / "link").exists()
    (run / "cases" / "c").rename(tmp_path / "moved")
    (run / "cases" / "c").symlink_to(tmp_path / "mine")
    assert repeat(resume="a") == 0
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["kept.txt"]
    assert (run / "cases" / "c" / "answer.txt").read_text() == "2"
    assert not (run / "cases" / "c").is_symlink()


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_a_worklist_holds_no_formula_wherever_the_text_comes_from(tmp_path, text):
    records = [
        CaseRecord(case=text, status="rejected", code="PTD-1", reason=text),
        CaseRecord(case="c", status="ok", flags=[text], row={text: text, "ml": -2.5, "sign": "-2.5"}),
    ]
    write_worklist(tmp_path / "worklist.csv", records)
    with (tmp_path / "worklist.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))] == ["-2.5", "-2.5"]
    assert harmless(harmless(text)) == harmless(text) == f"'{text}"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nPTD-1 b.wav", "a\\nPTD-1 b.wav"),
        ("\x1b[2Ja.wav", "\\x1b[2Ja.wav"),
        ("a\u202evaw.exe", "a\\u202evaw.exe"),
        ("\udcff.wav", "\\udcff.wav"),
        ("Übung मराठी.wav", "Übung मराठी.wav"),
    ],
)
def test_a_files_name_steers_no_terminal_and_breaks_no_line(name, shown):
    error = CaseError("PTD-1", f"'{name}' is bad", "mend it", name)
    assert str(error) == f"PTD-1 {shown}: '{shown}' is bad; mend it."
    item = Rejection(where=name, code="PTD-1", reason=f"{error.problem}; {error.remedy}.", files=(name,))
    assert (item.where, item.reason, item.files) == (shown, f"'{shown}' is bad; mend it.", (shown,))


def test_a_manifest_that_names_files_outside_its_bundle_reads_none_of_them(tmp_path):
    (tmp_path / "secret.json").write_text("secret")
    save_bundle(tmp_path / "b", Line(Size()), domain="core", name="line", settings={}, card="# Line", provenance={})
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    manifest["files"]["../secret.json"] = digest_file(tmp_path / "secret.json")
    manifest["digest"] = digest_json({key: value for key, value in manifest.items() if key != "digest"})
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"PTD-503 .*secret\.json is missing"):
        load_bundle(tmp_path / "b", "core", {"line": Line})


def test_a_journal_keeps_the_texts_as_they_are(tmp_path):
    record = CaseRecord(case="c", status="ok", row={"text": "=1+1"})
    with LineFile(tmp_path / "journal.jsonl", sync=False) as journal:
        write_record(journal, record)
    assert read_journal(tmp_path / "journal.jsonl") == {"c": record}


def calls():
    """Every call in the packages: file, name of what is called, and names of its arguments' keywords."""
    for path in sorted((ROOT / "packages").rglob("src/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT / "packages").as_posix(), ast.unparse(node.func), node


def test_no_archive_is_ever_unpacked_to_files():
    """Archives are read in memory, member by member (.npz, .xlsx, .gz), so that no path in one can lead anywhere."""
    unpackers = ("extract", "extractall", "unpack_archive")
    assert [(path, name) for path, name, _ in calls() if name.split(".")[-1] in unpackers] == []


def test_nothing_is_unpickled_but_what_the_own_parent_process_sent():
    loaders = ("pickle.load", "pickle.loads", "joblib.load", "dill.load", "cloudpickle.loads")
    assert [path for path, name, _ in calls() if name in loaders] == ["core/src/pentad/core/batch/worker.py"]
    for path, name, node in calls():
        if name == "torch.load":
            assert "weights_only=True" in ast.unparse(node), path
        if name in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in ast.unparse(node), path
