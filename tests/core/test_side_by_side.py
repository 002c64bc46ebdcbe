"""The tables and the drawing that every pipeline's report has of its models."""

from __future__ import annotations

import json

import pytest

from pentad.core.errors import UsageError
from pentad.core.evaluation import Row, write_results
from pentad.core.run import code_version
from pentad.core.side_by_side import (
    Evaluation,
    draw_training,
    overview,
    paired_differences,
    per_case_csv,
    read_histories,
    training_csv,
)

HISTORIES = {
    "net": [{"step": 2.0, "loss": 0.123456789}, {"step": 4.0, "loss": None, "val_f1": 0.5}, {"step": 6.0, "loss": 0.5}],
    "other": [{"step": 6.0, "loss": 2.0}],
}


def test_a_row_a_model_and_case_with_nan_where_there_is_no_value():
    rows = [Row("a,b", "p1", "ok", "", "", {"dice": 0.123456789}), Row("c", "p2", "failed", "PTD-1", "broken", {})]
    text = per_case_csv([("net", rows), ("other", rows[:1])], ["dice", "nsd"], digits=3)
    assert text == 'model,id,dice,nsd\nnet,"a,b",0.123,nan\nnet,c,nan,nan\nother,"a,b",0.123,nan\n'
    assert per_case_csv([("net", rows[:1])], ["dice"]).endswith(",0.123457\n")


def test_histories_are_those_of_the_models_that_were_trained(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORIES["net"]))
    assert read_histories(tmp_path, ["threshold", "net"]) == {"net": HISTORIES["net"]}


def test_the_course_of_a_training_leaves_out_lines_without_a_loss():
    assert training_csv(HISTORIES) == "model,step,loss\nnet,2,0.123457\nnet,6,0.5\nother,6,2\n"
    assert training_csv({}) == "model,step,loss\n"


def test_every_model_has_a_line_with_its_name():
    drawing = draw_training(HISTORIES, "cross-entropy")
    [axes] = drawing.axes
    assert drawing.get_size_inches().tolist() == [6.5, 2.6]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"net": [[2.0, 0.123456789], [6.0, 0.5]], "other": [[6.0, 2.0]]}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "cross-entropy")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["net", "other"]


def test_two_evaluations_are_stated_with_their_differences_of_the_metrics_asked_for(tmp_path):
    for name, more in (("net", 0.5), ("rule", 0.0)):
        rows = [Row(str(n), metrics={"dice": n / 10 + more, "nsd": 0.5}) for n in range(3)]
        summary = {"dice": {"value": 0.1 + more}}
        write_results(tmp_path / name, rows, summary, {"model": f"digest of {name}", "seed": 7})
    first, other = (Evaluation.read(tmp_path / name) for name in ("net", "rule"))
    assert (first.name, first.folder, first.seed, len(first.rows)) == ("net", tmp_path / "net", 7, 3)
    paired = paired_differences(first, [other], ["dice"])
    assert list(paired) == ["net - rule"]
    assert list(paired["net - rule"]) == ["dice"]
    assert paired["net - rule"]["dice"]["value"] == pytest.approx(0.5)
    assert overview("core", [first, other], paired, ["dice", "nsd"], synthetic=True) == {
        "data": "synthetic",
        "headline": "dice, nsd",
        "models": {
            "net": {"cases": {"scored": 3, "failed": 0}, "dice": {"value": 0.6}},
            "rule": {"cases": {"scored": 3, "failed": 0}, "dice": {"value": 0.1}},
        },
        "paired_difference": paired,
        "provenance": {
            "code": code_version("core"),
            "models": {"net": "digest of net", "rule": "digest of rule"},
        },
    }
    assert overview("core", [first], {}, [], synthetic=False)["data"] == "real"
    with pytest.raises(UsageError, match="PTD-269"):
        Evaluation.read(tmp_path / "none")
