"""Plan, train, evaluate and report on four tiny cases, as their commands run them."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command import call, command
from medical.tiny_cases import tiny_ct, tiny_labels

from pentad.core.bundle import read_manifest
from pentad.core.cases import read_cases
from pentad.core.evaluation import from_entry
from pentad.core.files import digest_file
from pentad.medical.volumes import read_label, read_nifti


def train(work: Path, out: Path, *options: object) -> tuple[object, ...]:
    table, params = work / "prepared" / "cases.jsonl", work / "params.yaml"
    fixed = ("--model", "u_mamba_bot", "--plan", work / "plan.json", "--params", params)
    return ("medical", "train", table, *fixed, "-o", out / "bundle", "--run", out / "run", *options)


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> Path:
    """Evaluations of the bundle and of the threshold, and their report."""
    out = tmp_path_factory.mktemp("evaluated")
    table, params = trained / "prepared" / "cases.jsonl", trained / "params.yaml"
    for name, model in (("net", trained / "bundle"), ("threshold", "threshold")):
        options = ("--model", model, "-o", out / name, "--params", params, "--device", "cpu")
        done = call("medical", "evaluate", table, *options)
        assert done.code == 0, done.err
    runs = shutil.copytree(trained / "runs" / "u", out / "runs" / "net").parent
    done = call("medical", "report", table, out / "net", out / "threshold", "-o", out, "--runs", runs)
    assert done.code == 0, done.err
    return out


def test_preparing_keeps_values_and_labels(trained):
    cases = read_cases(trained / "prepared" / "cases.jsonl")
    assert [case.split for case in cases].count("train") == 2
    for case in cases:
        seed = int(case.id.removeprefix("case"))
        # Stored from head to foot, front and left of the writer's grid: canonical already.
        assert np.array_equal(read_nifti(Path(case.files["image"])).array, tiny_ct(seed))
        assert np.array_equal(read_label(Path(case.files["label"])).array, tiny_labels(seed))


def test_the_plan_holds_what_its_section_asked_for(trained):
    plan = json.loads((trained / "plan.json").read_text())
    assert plan["patch_size"] == [8, 16, 16]
    assert plan["batch_size"] == 2
    assert plan["features"][0] == 4


def test_a_bundle_states_its_classes_and_what_made_it(trained):
    manifest = read_manifest(trained / "bundle")
    assert manifest["settings"]["classes"] == {"liver": 1, "lesion": 2}
    assert manifest["provenance"]["seed"] == 3
    assert manifest["provenance"]["plan"] == digest_file(trained / "plan.json")


def test_training_again_gives_the_same_weights(trained, tmp_path):
    assert call(*train(trained, tmp_path)).code == 0
    weights = [digest_file(folder / "bundle" / "model.safetensors") for folder in (trained, tmp_path)]
    assert weights[0] == weights[1]


def test_a_finished_training_leaves_its_history_and_no_checkpoint(trained):
    lines = (trained / "runs" / "u" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if json.loads(line).get("loss") is not None]
    assert losses
    assert np.isfinite(losses).all()
    assert not (trained / "runs" / "u" / "checkpoint").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_weights_of_an_uninterrupted_one(trained, tmp_path):
    steps = ("--set", "steps=40")
    process = subprocess.Popen(command(*train(trained, tmp_path / "killed", *steps)), stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "run" / "checkpoint" / "state.json"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "bundle").exists()
    refused = call(*train(trained, tmp_path / "killed", *steps))
    assert refused.code == 2
    assert "PTD-232" in refused.sentence()
    assert call(*train(trained, tmp_path / "killed", *steps, "--resume")).code == 0
    assert call(*train(trained, tmp_path / "straight", *steps)).code == 0
    weights = [digest_file(tmp_path / name / "bundle" / "model.safetensors") for name in ("killed", "straight")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--model", "u_mamba_bott"), 5, "u_mamba_bot"),
        (("--set", "stepz=3"), 2, "PTD-215 .*'steps'"),
        (("--set", "steps=none"), 2, "PTD-214 .*steps"),
        (("--set", "device=tpu"), 2, "PTD-220"),
        (("--plan", "{work}/none.json"), 2, "PTD-"),
        (("--plan", "{work}/params.yaml"), 2, "PTD-"),
        (("-o", "{work}/bundle"), 2, "PTD-508"),
        (("-o", "{work}/runs", "--overwrite"), 2, "PTD-508"),
    ],
)
def test_a_training_that_cannot_begin_is_one_sentence(options, code, sentence, trained, tmp_path):
    changed = [option.format(work=trained) for option in options]
    done = call(*train(trained, tmp_path, *changed))
    assert done.code == code
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "bundle").exists()


def test_an_impossible_share_of_foreground_is_one_sentence(trained, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text((trained / "params.yaml").read_text().replace("sampling: {}", "sampling: {foreground: 3}"))
    done = call(*train(trained, tmp_path, "--params", params))
    assert done.code == 2
    assert "PTD-388" in done.sentence()


def test_a_table_without_training_cases_is_one_sentence(trained, tmp_path):
    table = tmp_path / "cases.jsonl"
    table.write_text('{"id": "a", "files": {"image": "a.nii", "label": "b.nii"}, "split": "test"}\n')
    shutil.copy(trained / "prepared" / "dataset.json", tmp_path)
    options = ("--params", trained / "params.yaml")
    assert call("medical", "plan", table, "-o", tmp_path / "plan.json", *options).code == 2
    done = call(*("medical", "train", table), *train(trained, tmp_path)[3:])
    assert done.code == 2
    assert "PTD-385" in done.sentence()


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    return 2 * float((prediction & reference).sum()) / float(prediction.sum() + reference.sum())


def own_dice(evaluated: Path, trained: Path, name: str, least: int) -> list[float]:
    """Dice of every held-out case, computed from the files that evaluate and prepare wrote."""
    values = []
    for case in read_cases(trained / "prepared" / "cases.jsonl", "test"):
        predicted = read_label(evaluated / name / "labels" / f"{case.id}.nii").array
        values.append(dice(predicted >= least, read_label(Path(case.files["label"])).array >= least))
    return values


@pytest.mark.parametrize("name", ["net", "threshold"])
@pytest.mark.parametrize(("metric", "least"), [("liver_dice", 1), ("lesion_dice", 2)])
def test_metrics_are_the_means_of_the_written_labels(name, metric, least, evaluated, trained):
    values = own_dice(evaluated, trained, name, least)
    entry = json.loads((evaluated / name / "metrics.json").read_text())[metric]
    assert entry["n"] == len(values) == 2
    assert entry["value"] == pytest.approx(np.mean(values), abs=1e-6)
    # With two cases the draws are one of them twice, or both: the interval ends at the two values.
    assert (entry["low"], entry["high"]) == pytest.approx((min(values), max(values)), abs=1e-6)


def test_the_rows_hold_every_case_with_its_volume(evaluated, trained):
    with (evaluated / "threshold" / "per_case.csv").open(newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    cases = read_cases(trained / "prepared" / "cases.jsonl", "test")
    assert rows.keys() == {case.id for case in cases}
    for case in cases:
        voxels = (read_label(Path(case.files["label"])).array > 0).sum()
        assert float(rows[case.id]["liver_volume_ml"]) == pytest.approx(voxels * 0.016, rel=1e-6)


def test_the_report_states_every_interval_and_paired_difference(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    page = (evaluated / "report" / "index.html").read_text()
    assert list(metrics["models"]) == ["net", "threshold"]
    for name in ("liver_dice", "lesion_dice", "liver_nsd"):
        for model in metrics["models"].values():
            assert from_entry(model[name]).format() in page
    assert list(metrics["paired_difference"]) == ["net - threshold"]
    assert "<script" not in page
    assert "not a medical device" in page


def test_the_paired_difference_is_that_of_the_cases(evaluated, trained):
    entry = json.loads((evaluated / "metrics.json").read_text())["paired_difference"]["net - threshold"]["liver_dice"]
    differences = np.subtract(*(own_dice(evaluated, trained, name, 1) for name in ("net", "threshold")))
    assert entry["value"] == pytest.approx(differences.mean(), abs=1e-6)
    assert (entry["low"], entry["high"]) == pytest.approx((differences.min(), differences.max()), abs=1e-6)


def test_a_report_twice_is_the_same_page(evaluated, trained, tmp_path):
    table = trained / "prepared" / "cases.jsonl"
    call_ = ("medical", "report", table, evaluated / "net", evaluated / "threshold", "-o", tmp_path)
    assert call(*call_, "--runs", evaluated / "runs").code == 0
    for name in ("report/index.html", "metrics.json", "report/training.csv", "report/per_case.csv"):
        assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes()


def test_a_case_that_cannot_be_scored_is_a_row_and_exit_3(trained, tmp_path):
    prepared = shutil.copytree(trained / "prepared", tmp_path / "prepared")
    bad, good = read_cases(prepared / "cases.jsonl", "test")
    Path(bad.files["label"]).write_bytes(b"no label")
    options = ("--model", "threshold", "-o", tmp_path / "out", "--params", trained / "params.yaml")
    done = call("medical", "evaluate", prepared / "cases.jsonl", *options)
    assert done.code == 3
    with (tmp_path / "out" / "per_case.csv").open(newline="") as stream:
        rows = {row["id"]: (row["status"], row["code"]) for row in csv.DictReader(stream)}
    assert rows == {bad.id: ("failed", "PTD-350"), good.id: ("ok", "")}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["liver_dice"]["n"] == 1


def test_an_evaluation_is_replaced_only_when_told_to(trained, tmp_path):
    out = tmp_path / "out"
    options = ("--model", "threshold", "-o", out, "--params", trained / "params.yaml")
    call_ = ("medical", "evaluate", trained / "prepared" / "cases.jsonl", *options)
    assert call(*call_).code == 0
    (out / "labels" / "gone.nii").write_bytes(b"of a case that is no more")
    before = (out / "metrics.json").read_bytes()
    refused = call(*call_)
    assert (refused.code, "PTD-419" in refused.sentence()) == (2, True)
    assert (out / "labels" / "gone.nii").is_file()
    assert call(*call_, "--overwrite").code == 0
    assert not (out / "labels" / "gone.nii").exists()
    assert (out / "metrics.json").read_bytes() == before


def test_what_is_no_evaluation_is_never_replaced(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("ten years")
    options = ("--model", "threshold", "-o", tmp_path / "out", "--params", trained / "params.yaml", "--overwrite")
    done = call("medical", "evaluate", trained / "prepared" / "cases.jsonl", *options)
    assert (done.code, "PTD-419" in done.sentence()) == (2, True)
    assert (tmp_path / "out" / "thesis.txt").is_file()


def test_a_case_whose_image_is_gone_is_a_row_too(trained, tmp_path):
    prepared = shutil.copytree(trained / "prepared", tmp_path / "prepared")
    for case in read_cases(prepared / "cases.jsonl", "test"):
        Path(case.files["image"]).unlink()
    options = ("--model", "threshold", "-o", tmp_path / "out", "--params", trained / "params.yaml")
    done = call("medical", "evaluate", prepared / "cases.jsonl", *options)
    assert done.code == 3
    assert "0 cases scored, 2 failed" in done.out
    assert (tmp_path / "out" / "per_case.csv").read_text().count("PTD-350") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("evaluate", "{table}", "--model", "threshold", "--split", "val"), 4, "PTD-416"),
        (("evaluate", "{table}", "--model", "thresh"), 5, "PTD-500"),
        (("evaluate", "{table}", "--model", "threshold", "--set", "sed=1"), 2, "PTD-215 .*'seed'"),
        (
            ("evaluate", "{table}", "--model", "threshold", "--set", "tolerances_mm={{livr: 2}}"),
            2,
            "PTD-214 .*liver and lesion",
        ),
        (("report", "{table}", "{out}"), 2, "PTD-269"),
        (("report", "{work}/none.jsonl", "{net}"), 2, "PTD-206"),
        (("report", "{table}", "{net}", "{cut}"), 2, "PTD-268"),
    ],
)
def test_an_evaluation_or_report_that_cannot_be_made_is_one_sentence(
    arguments, code, sentence, trained, evaluated, tmp_path
):
    cut = shutil.copytree(evaluated / "threshold", tmp_path / "cut")
    (cut / "per_case.csv").write_text("".join((cut / "per_case.csv").read_text().splitlines(keepends=True)[:-1]))
    names = {"table": trained / "prepared" / "cases.jsonl", "out": tmp_path / "out", "work": trained}
    names |= {"net": evaluated / "net", "cut": cut}
    params = ("--params", trained / "params.yaml") if arguments[0] == "evaluate" else ()
    done = call("medical", *(part.format(**names) for part in arguments), "-o", tmp_path / "out", *params)
    assert done.code == code
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "out").exists()
