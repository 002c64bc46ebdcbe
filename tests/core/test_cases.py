import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pentad.core.cases import (
    Case,
    Rejection,
    assign_splits,
    data_digest,
    free_id,
    input_digest,
    is_safe_id,
    read_cases,
    safe_id,
    unreadable,
    write_cases,
    write_rejections,
)
from pentad.core.errors import CaseError, UsageError

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def make_cases(groups: list[str]) -> list[Case]:
    return [Case(id=f"case_{number:03d}", group=group) for number, group in enumerate(groups)]


def test_a_table_read_back_is_equal_with_absolute_paths(tmp_path):
    image = tmp_path / "images" / "a.nii"
    case = Case(id="a", files={"image": str(image)}, target=["dog", "rain"], group="p1", split="val")
    write_cases(tmp_path / "cases.jsonl", [case])
    assert "images/a.nii" in (tmp_path / "cases.jsonl").read_text()
    assert str(tmp_path) not in (tmp_path / "cases.jsonl").read_text()
    assert read_cases(tmp_path / "cases.jsonl") == [case]


def test_reading_one_split_leaves_the_others_out(tmp_path):
    write_cases(tmp_path / "cases.jsonl", [Case(id="a", split="train"), Case(id="b", split="test")])
    assert [case.id for case in read_cases(tmp_path / "cases.jsonl", "test")] == ["b"]


def test_signs_that_break_lines_elsewhere_break_no_table(tmp_path):
    cases = [Case(id=f"a{place}", target=f"one{sign}two") for place, sign in enumerate("\u2028\u2029\x85\x0b\x1c\r\n")]
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases


def test_a_table_that_an_editor_saved_again_is_read(tmp_path):
    (tmp_path / "cases.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n\r\n{"id": "b"}\r\n')
    assert [case.id for case in read_cases(tmp_path / "cases.jsonl")] == ["a", "b"]


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "cases.jsonl").write_bytes('{"id": "é"}'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"PTD-202 .*not UTF-8"):
        read_cases(tmp_path / "cases.jsonl")


def test_a_link_to_itself_is_refused_where_it_is_read(tmp_path):
    (tmp_path / "a.bin").symlink_to("a.bin")
    (tmp_path / "cases.jsonl").write_text('{"id": "a", "files": {"image": "a.bin"}}\n')
    (case,) = read_cases(tmp_path / "cases.jsonl")
    with pytest.raises(CaseError, match="PTD-305 the input 'image' cannot be read"):
        input_digest(case)


@pytest.mark.parametrize("role", ["pipe", "folder"])
def test_a_pipe_among_the_inputs_is_refused_and_not_waited_for(tmp_path, role):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / ("folder/pipe" if role == "folder" else "pipe"))
    with pytest.raises(CaseError, match=rf"PTD-305 the input '{role}' cannot be read \(not a regular file\)"):
        input_digest(Case(id="a", files={role: str(tmp_path / role)}))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 129])
def test_an_id_that_is_no_safe_file_name_is_refused(name):
    with pytest.raises(ValidationError, match="letters, digits"):
        Case(id=name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "colour": 1}', "line 2.*colour"),
        ("not json", "line 2.*not a case"),
        ('{"id": "a"}', "'a' stands twice"),
        ('{"id": "b", "files": {"image": "a\\u0000b"}}', "line 2.*the character 0"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    table = tmp_path / "cases.jsonl"
    table.write_text('{"id": "a"}\n' + line + "\n")
    with pytest.raises(UsageError, match=message):
        read_cases(table)


def test_a_missing_table_says_what_to_run(tmp_path):
    with pytest.raises(UsageError, match="run the prepare command"):
        read_cases(tmp_path / "cases.jsonl")


@given(st.lists(st.sampled_from("abcdefghij"), min_size=5, max_size=40), st.integers(0, 5))
def test_no_group_stands_in_two_splits(groups, seed):
    cases = assign_splits(make_cases(groups), SHARES, seed)
    sides = {(case.group, case.split) for case in cases}
    assert len(sides) == len(set(groups))
    assert {case.split for case in cases} <= set(SHARES)


def test_shares_are_met_within_one_group_of_one():
    cases = assign_splits(make_cases([f"g{n}" for n in range(50)]), SHARES, seed=3)
    counts = {name: sum(case.split == name for case in cases) for name in SHARES}
    assert counts == {"train": 30, "val": 10, "test": 10}


def test_a_given_split_is_kept_and_draws_its_group_along():
    cases = [Case(id="a", group="g", split="test"), Case(id="b", group="g"), Case(id="c", group="h")]
    assert assign_splits(cases, SHARES, seed=0)[1].split == "test"


def test_a_group_given_two_splits_is_refused():
    cases = [Case(id="a", group="g", split="test"), Case(id="b", group="g", split="train")]
    with pytest.raises(UsageError, match=r"'g' stands in the splits \['test', 'train'\]"):
        assign_splits(cases, SHARES, seed=0)


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(UsageError, match="do not sum to 1"):
        assign_splits(make_cases(["a"]), {"train": 0.5, "test": 0.4}, seed=0)


def test_no_rejection_leaves_an_empty_file(tmp_path):
    write_rejections(tmp_path / "none.jsonl", [])
    write_rejections(tmp_path / "one.jsonl", [Rejection(where="x", code="PTD-320", reason="no image")])
    assert (tmp_path / "none.jsonl").read_text() == ""
    assert "PTD-320" in (tmp_path / "one.jsonl").read_text()


def test_rejections_are_written_with_every_file_they_speak_of(tmp_path):
    item = Rejection(where="a and 1 more", code="PTD-330", reason="cut off.", files=("a", "b"))
    write_rejections(tmp_path / "one.jsonl", [item])
    assert Rejection.model_validate_json((tmp_path / "one.jsonl").read_text()) == item


def test_the_data_digest_may_leave_files_out_that_were_not_used(tmp_path):
    (tmp_path / "image").write_text("1")
    used = Case(id="a", files={"image": str(tmp_path / "image")})
    moved = Case(id="a", files={**used.files, "source": str(tmp_path / "gone")})
    assert data_digest([moved], ("image", "label")) == data_digest([used])


def test_a_rejected_name_that_is_no_utf8_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.dcm")
    write_rejections(tmp_path / "rejected.jsonl", [Rejection(where=name, code="PTD-130", reason="no.", files=(name,))])
    assert "caf\\\\udce9.dcm" in (tmp_path / "rejected.jsonl").read_text()


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 128])
def test_letters_digits_and_three_signs_make_an_id(name):
    assert is_safe_id(name)
    assert Case(id=name).id == name


def test_any_name_becomes_an_id_of_at_most_120_letters_that_keeps_its_end():
    assert safe_id("Übung 1/scan.nii") == "bung_1_scan.nii"
    assert safe_id("..//") == "case"
    assert safe_id("b" + "a" * 120) == "a" * 120


def test_a_taken_id_gets_the_first_free_number():
    assert free_id("a", set()) == "a"
    assert free_id("a", {"a"}) == "a-2"
    assert free_id("a", {"a", "a-2", "a-4"}) == "a-3"


def test_shares_may_be_nothing_but_never_less():
    assert {case.split for case in assign_splits(make_cases(["a", "b"]), {"train": 1.0, "test": 0.0}, 0)} == {"train"}
    for shares in ({"train": 1.1, "test": -0.1}, {}, {"train": 0.99999}, {"train": float("nan"), "test": 0.5}):
        with pytest.raises(UsageError, match="PTD-204"):
            assign_splits(make_cases(["a"]), shares, 0)


def test_a_split_of_another_name_stands_aside_of_the_shares():
    cases = [Case(id="kept", split="extra"), *make_cases(["a", "b"])]
    assert [case.split for case in assign_splits(cases, {"train": 1.0}, 0)] == ["extra", "train", "train"]


def test_a_folder_of_a_case_counts_with_all_names_beneath(tmp_path):
    (tmp_path / "scan" / "inner").mkdir(parents=True)
    (tmp_path / "scan" / "inner" / "1.dcm").write_text("one")
    case = Case(id="a", files={"source": str(tmp_path / "scan")})
    before = input_digest(case)
    (tmp_path / "scan" / "inner").rename(tmp_path / "scan" / "other")
    assert input_digest(case) != before
    with pytest.raises(CaseError, match=r"PTD-305 the input 'source' cannot be read \(No such file or directory\)"):
        input_digest(Case(id="a", files={"source": str(tmp_path / "none")}))
    assert "(TimeoutError)" in str(unreadable("image", TimeoutError()))
