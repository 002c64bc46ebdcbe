import json

import pytest
from command import call

from pentad.core.cases import Case, read_cases, write_cases
from pentad.core.errors import UsageError
from pentad.core.folds import assign_folds, write_folds


def cases(count, patients):
    return [Case(id=f"c{number}", group=f"p{number % patients}", split="val") for number in range(count)]


def held_out(fold):
    return {case.id for case in fold if case.split == "test"}


def test_every_case_is_tested_in_exactly_one_fold():
    folds = assign_folds(cases(17, 17), 4, seed=1)
    assert sorted(case for fold in folds for case in held_out(fold)) == sorted(case.id for case in folds[0])
    assert sorted(len(held_out(fold)) for fold in folds) == [4, 4, 4, 5]
    assert {case.split for fold in folds for case in fold} == {"train", "test"}


def test_a_patient_stands_on_one_side_of_every_fold():
    for fold in assign_folds(cases(20, 6), 3, seed=2):
        assert not {case.group for case in fold if case.split == "test"} & {
            case.group for case in fold if case.split == "train"
        }


def test_the_folds_hang_on_the_seed_and_not_on_the_order_of_the_table():
    made = [sorted(held_out(fold)) for fold in assign_folds(cases(12, 12), 3, seed=5)]
    assert made == [sorted(held_out(fold)) for fold in assign_folds(cases(12, 12)[::-1], 3, seed=5)]
    assert made != [sorted(held_out(fold)) for fold in assign_folds(cases(12, 12), 3, seed=6)]


@pytest.mark.parametrize("count", [1, 0, 5])
def test_folds_that_cannot_be_made_are_refused(count):
    with pytest.raises(UsageError, match=r"PTD-600 .*groups"):
        assign_folds(cases(9, 4), count, seed=0)


def test_a_folds_table_leads_to_the_same_files_and_keeps_the_datas_statement(tmp_path):
    table = tmp_path / "prepared" / "cases.jsonl"
    write_cases(table, [Case(id=name, files={"image": f"images/{name}.nii"}) for name in "abc"])
    (table.parent / "dataset.json").write_text('{"name": "three"}')
    write_folds(table, tmp_path / "folds", 3, seed=0)
    for fold in "012":
        made = read_cases(tmp_path / "folds" / fold / "cases.jsonl")
        assert [case.files for case in made] == [case.files for case in read_cases(table)]
        assert json.loads((tmp_path / "folds" / fold / "dataset.json").read_text()) == {"name": "three"}


def test_five_folds_by_seed_0_are_what_the_command_cuts_unless_told(tmp_path):
    write_cases(tmp_path / "cases.jsonl", cases(20, 20))
    assert call("folds", tmp_path / "cases.jsonl", "-o", tmp_path / "plain").out == (
        "20 cases in 5 folds, 4, 4, 4, 4, 4 tested in each\n"
    )
    write_folds(tmp_path / "cases.jsonl", tmp_path / "told", 5, 0)
    for fold in "01234":
        made = [(tmp_path / name / fold / "cases.jsonl").read_text() for name in ("plain", "told")]
        assert made[0] == made[1]
