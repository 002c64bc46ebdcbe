from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pentad.core.batch.journal import CaseRecord, LineFile, read_journal, write_record
from pentad.core.batch.worklist import write_worklist

GOOD = CaseRecord(case="a", status="ok", row={"n": 1, "ml": 1.0, "side": "links über"}, flags=["odd"], seconds=0.25)


def write(path, *records):
    with LineFile(path, sync=True) as journal:
        for record in records:
            write_record(journal, record)


def test_records_come_back_as_they_were_and_the_last_of_a_case_counts(tmp_path):
    later = GOOD.model_copy(update={"status": "failed", "code": "PTD-300", "reason": "lost."})
    other = GOOD.model_copy(update={"case": "b"})
    write(tmp_path / "j", GOOD, other, later)
    found = read_journal(tmp_path / "j")
    assert found == {"a": later, "b": other}
    assert [type(value) for value in found["b"].row.values()] == [int, float, str]


def test_an_absent_journal_is_empty(tmp_path):
    assert read_journal(tmp_path / "none") == {}


@given(st.data())
def test_a_journal_cut_anywhere_gives_whole_records_only(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("j") / "j"
    records = [GOOD.model_copy(update={"case": name}) for name in "abc"]
    write(path, *records)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    found = read_journal(path)
    # A line that lacks nothing but its newline is whole too.
    assert list(found.values()) in (records[:whole], records[: whole + 1])
    write(path, GOOD.model_copy(update={"case": "z"}))
    assert list(read_journal(path)) == [*"abc"[:whole], "z"]


@pytest.mark.parametrize("damage", [b"\0" * 80, b'{"case": "b", "status": "ok"}', b"[1]", b'{"check": 1}'])
def test_a_damaged_line_is_left_out_and_logged(tmp_path, caplog, damage):
    write(tmp_path / "j", GOOD)
    with (tmp_path / "j").open("ab") as stream:
        stream.write(damage + b"\n")
    assert list(read_journal(tmp_path / "j")) == ["a"]
    assert "line 2 of j" in caplog.text


def test_a_changed_digit_is_noticed(tmp_path):
    write(tmp_path / "j", GOOD)
    (tmp_path / "j").write_text((tmp_path / "j").read_text().replace("0.25", "0.35"))
    assert read_journal(tmp_path / "j") == {}


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom pentad.core.batch.journal import LineFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "lines = LineFile(Path(sys.argv[1]), sync=True)\nlines.append('x' * 60)\n"
        "try:\n    lines.append('y' * 60)\nexcept OSError as error:\n    print(error.errno)\nlines.append('z' * 30)\n"
    )
    call = [sys.executable, "-c", program, str(tmp_path / "f")]
    result = subprocess.run(call, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "27"  # EFBIG
    assert (tmp_path / "f").read_text() == "x" * 60 + "\n" + "z" * 30 + "\n"


def test_the_worklist_joins_the_columns_and_puts_problems_first(tmp_path):
    records = [
        CaseRecord(case="d", status="ok", row={"liver": 1.5}),
        CaseRecord(case="c", status="ok", row={"spleen": 2, "liver": 1}, flags=["cut", "odd"], seconds=1.25),
        CaseRecord(case="b", status="pending"),
        CaseRecord(case="z,1", status="rejected", code="PTD-130", reason="no image."),
        CaseRecord(case="e", status="failed", code="PTD-300", reason='said "no", then left.'),
    ]
    write_worklist(tmp_path / "w.csv", records)
    write_worklist(tmp_path / "v.csv", records[::-1])
    assert (tmp_path / "w.csv").read_text().splitlines() == [
        "id,status,code,reason,flags,seconds,spleen,liver",
        'e,failed,PTD-300,"said ""no"", then left.",,0.000,,',
        '"z,1",rejected,PTD-130,no image.,,,,',
        "b,pending,,,,,,",
        "c,ok,,,cut;odd,1.250,2,1",
        "d,ok,,,,0.000,,1.5",
    ]
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "w.csv").read_bytes()
