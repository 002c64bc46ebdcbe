from __future__ import annotations

import json
import logging
import math

import pytest

from pentad.core.cases import Case
from pentad.core.errors import CaseError, ModelError, UsageError
from pentad.core.evaluation import (
    Row,
    compare,
    evaluate,
    from_entry,
    make_room,
    read_json,
    read_rows,
    summarise,
    to_entry,
    write_results,
)
from pentad.core.metrics import bootstrap_interval, paired_difference

CASES = [Case(id=f"case{index}", group=f"patient{index // 2}", target=index) for index in range(6)]


def score(case):
    if case.target == 2:
        raise CaseError("PTD-311", "prediction and reference differ in shape", "predict again", "label.nii")
    if case.target == 3:
        raise ValueError("cannot read Doe^Jane")
    return {"dice": 0.9 - 0.01 * case.target, "distance_mm": math.nan if case.target == 5 else float(case.target)}


@pytest.fixture
def rows():
    return evaluate(CASES, score)


def test_every_case_becomes_a_row_in_order(rows):
    assert [row.id for row in rows] == [case.id for case in CASES]
    assert [row.status for row in rows] == ["ok", "ok", "failed", "failed", "ok", "ok"]


def test_a_failed_case_carries_its_code_and_one_sentence(rows):
    assert rows[2].code == "PTD-311"
    assert rows[2].reason == "label.nii: prediction and reference differ in shape; predict again."


def test_an_unforeseen_error_ends_its_case_alone_and_quotes_no_content(rows, caplog):
    assert rows[3].code == "PTD-319"
    assert "ValueError" in rows[3].reason
    assert "Jane" not in rows[3].reason + caplog.text


def test_a_failed_case_is_a_warning_and_a_scored_one_is_not(caplog):
    with caplog.at_level(logging.INFO, "pentad"):
        evaluate(CASES, score)
    assert [record.levelno for record in caplog.records] == [
        logging.INFO if case.target not in (2, 3) else logging.WARNING for case in CASES
    ]
    assert caplog.messages[2].startswith("case2 failed label.nii: prediction and reference differ in shape")


def test_a_wrong_model_ends_the_whole_evaluation():
    def wrong_model(case):
        raise ModelError("PTD-500", "no bundle", "train first", "bundle")

    with pytest.raises(ModelError):
        evaluate(CASES, wrong_model)


def test_a_summary_counts_only_cases_with_a_value_and_draws_patients(rows):
    summary = summarise(rows, seed=7)
    dice = bootstrap_interval([0.9, 0.89, 0.86, 0.85], seed=7, groups=["a", "a", "c", "c"])
    assert summary["dice"] == to_entry(dice)
    assert summary["distance_mm"]["n"] == 3


def test_a_summary_keeps_to_the_metrics_named(rows):
    assert list(summarise(rows, seed=0, metrics=["distance_mm"])) == ["distance_mm"]
    with pytest.raises(UsageError, match=r"PTD-267 .*did you mean 'dice'"):
        summarise(rows, seed=0, metrics=["dicee"])


def test_metrics_file_holds_nested_numbers_and_is_the_same_each_time(rows, tmp_path):
    for name in ("first", "second"):
        write_results(tmp_path / name, rows, summarise(rows, seed=0), {"code": "abc"})
    first, second = (tmp_path / name / "metrics.json" for name in ("first", "second"))
    content = json.loads(first.read_text())
    assert content["dice"] == {"value": 0.875, "low": 0.855, "high": 0.895, "n": 4}
    assert content["cases"] == {"scored": 4, "failed": 2}
    assert content["provenance"] == {"code": "abc"}
    assert first.read_bytes() == second.read_bytes()


def test_a_metric_without_any_case_is_null_with_n_zero(tmp_path):
    rows = [Row("a", metrics={"hd95_mm": math.nan}), Row("b", metrics={"hd95_mm": math.nan})]
    write_results(tmp_path, rows, summarise(rows, seed=0), {})
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["hd95_mm"] == {"value": None, "low": None, "high": None, "n": 0}
    assert math.isnan(from_entry(content["hd95_mm"]).value)


def test_per_case_table_reads_back_as_the_same_rows(rows, tmp_path):
    write_results(tmp_path, rows, {}, {})
    text = (tmp_path / "per_case.csv").read_text()
    again = read_rows(tmp_path / "per_case.csv")
    assert text.splitlines()[0] == "id,status,code,reason,group,dice,distance_mm"
    assert text.splitlines()[-1] == "case5,ok,,,patient2,0.85,"
    assert [(row.id, row.status, row.code, row.reason, row.group) for row in again] == [
        (row.id, row.status, row.code, row.reason, row.group) for row in rows
    ]
    assert again[1].metrics == pytest.approx(rows[1].metrics)
    assert again[2].metrics == {}


@pytest.mark.parametrize("text", ["id,name\na,b\n", "id,status,code,reason,group,dice\na,ok,,,,high\n"])
def test_another_table_is_refused(tmp_path, text):
    (tmp_path / "per_case.csv").write_text(text)
    with pytest.raises(UsageError, match="PTD-269"):
        read_rows(tmp_path / "per_case.csv")


@pytest.mark.parametrize("text", ["", '{"dice": ', None])
def test_metrics_that_cannot_be_read_are_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UsageError, match=r"PTD-269 .*metrics\.json.*evaluate command"):
        read_json(tmp_path / "metrics.json")


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-269 .*No such file"):
        read_rows(tmp_path / "per_case.csv")


def test_a_comparison_pairs_cases_by_id_whatever_their_order(rows):
    lower = [Row(row.id, row.group, metrics={"dice": row.metrics.get("dice", 1.0) - 0.1}) for row in reversed(rows)]
    difference = compare(rows, lower, seed=0)
    assert difference == {"dice": {"value": 0.1, "low": 0.1, "high": 0.1, "n": 4}}


def test_a_comparison_of_different_cases_is_refused(rows):
    with pytest.raises(UsageError, match=r"PTD-268 .*1 cases \(case5\)"):
        compare(rows, rows[:-1], seed=0)


def test_a_comparison_draws_patients_and_those_without_a_group_alone():
    values = [0.1, 0.2, 0.5, 0.7, 0.9]
    groups = ["a", "a", "b", "", ""]
    rows = [
        Row(f"c{k}", group, metrics={"dice": value})
        for k, (value, group) in enumerate(zip(values, groups, strict=True))
    ]
    others = [Row(row.id, row.group, metrics={"dice": 0.0}) for row in rows]
    drawn = paired_difference(values, [0.0] * 5, seed=0, groups=["a", "a", "b", "c3", "c4"])
    assert compare(rows, others, seed=0) == {"dice": to_entry(drawn)}


def test_an_evaluation_makes_room_only_where_it_may_and_only_of_another(tmp_path):
    place = tmp_path / "out"
    make_room(place, ["labels"], "PTD-999", overwrite=False)
    place.mkdir()
    make_room(place, ["labels"], "PTD-999", overwrite=False)
    (place / "mine.txt").write_text("mine")
    for overwrite, words in ((False, "something already"), (True, "no evaluation")):
        with pytest.raises(UsageError, match=f"PTD-999 .*{words}"):
            make_room(place, ["labels"], "PTD-999", overwrite=overwrite)
    assert (place / "mine.txt").read_text() == "mine"
    (place / "labels").mkdir()
    make_room(place, ["metrics.json", "labels"], "PTD-999", overwrite=True)
    assert not place.exists()
