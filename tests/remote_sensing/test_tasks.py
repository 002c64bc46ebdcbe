"""Land cover change and building damage, from prepare to maps, on scenes whose classes are colours."""

import json

import geopandas
import numpy as np
import pytest
import torch
import yaml
from command import call
from remote_sensing.rasters import write_raster

from pentad.remote_sensing.ingest import PrepareConfig, prepare
from pentad.remote_sensing.losses import change_loss, damage_loss, semantic_change_loss
from pentad.remote_sensing.tasks import TASKS

SIDE = 32
COLOURS = np.array([(90, 90, 90), (200, 60, 60), (60, 200, 60), (60, 60, 200), (220, 220, 60), (60, 220, 220)])
LITTLE = {"encoder": {"widths": [8, 16], "depths": [1, 1], "stem_stride": 2, "drop_path": 0}, "hidden": 8}
PARAMS = {
    "networks": {
        "mamba_scd": {**LITTLE, "decoder_drop_path": 0},
        "mamba_bda": {**LITTLE, "decoder_drop_path": 0},
        "fc_siam_conc": {"widths": [8, 16]},
    },
    "patches": {"side": SIDE, "changed": 0.0, "light": 0.0},
    "train": {"steps": 60, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.01, "device": "cpu"},
    "tiles": {"side": SIDE},
    "evaluate": {},
    "predict": {"smallest_m2": 0},
}


def noisy(classes, rng):
    image = np.moveaxis(COLOURS[classes], -1, 0) + rng.integers(-8, 9, (3, SIDE, SIDE))
    return image.clip(1, 255).astype("uint8")


def write_covers(root, number):
    """Land cover is colour; a square turns from one into another."""
    rng = np.random.default_rng(number)
    before, after = np.ones((SIDE, SIDE), int), np.ones((SIDE, SIDE), int)
    before[:, 16:] = 2
    after[:, 16:] = 2
    after[4:14, 3 + number : 13 + number] = 5
    after[20:30, 18:28] = 3
    changed = before != after
    labels = {"cover_before": np.where(changed, before, 0), "cover_after": np.where(changed, after, 0)}
    write(root, number, noisy(before, rng), noisy(after, rng), labels)


def write_damage(root, number):
    """Buildings are red before; afterwards their colour tells the grade."""
    rng = np.random.default_rng(number)
    before, grade = np.zeros((SIDE, SIDE), int), np.zeros((SIDE, SIDE), int)
    for k, (row, column) in enumerate([(3, 3), (3, 19), (19, 3), (19, 19)]):
        grade[row : row + 10, column : column + 10] = 1 + (k + number) % 4
    before[grade > 0] = 1
    write(root, number, noisy(before, rng), noisy(np.where(grade, grade + 1, 0), rng), {"damage": grade})


def write(root, number, before, after, labels):
    for role, image in {"A": before, "B": after}.items():
        write_raster(root / role / f"p{number}.tif", image)
    for role, label in labels.items():
        write_raster(root / role / f"p{number}.tif", label[None].astype("uint8"), nodata=255)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Both tasks' tables, three scenes for training and one for the test each."""
    root = tmp_path_factory.mktemp("tasks")
    for task, scene in (("scd", write_covers), ("bda", write_damage)):
        for number in range(4):
            scene(root / task / "raw", number)
        prepare(root / task / "raw", root / task, PrepareConfig({"train": 0.75, "test": 0.25}, task=task))
        (root / task / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "prepare": {"task": task}}))
    return root


def step(folder, verb, *words):
    done = call("remote-sensing", verb, folder / "cases.jsonl", *words, "--params", folder / "params.yaml")
    assert done.code == 0, done.err
    return done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "metric", "maps"),
    [
        ("scd", "mamba_scd", "fscd_pooled", {"change", "cover_before", "cover_after", "transition"}),
        ("bda", "mamba_bda", "f1_overall_pooled", {"building", "damage"}),
    ],
)
def test_a_task_goes_from_pairs_to_scores_maps_and_named_polygons(prepared, task, model, metric, maps):
    folder = prepared / task
    bundle = folder / model
    step(folder, "train", "--model", model, "-o", bundle, "--run", folder / "run")
    step(folder, "evaluate", "--model", bundle, "-o", folder / "evaluations" / model)
    assert json.loads((folder / "evaluations" / model / "metrics.json").read_text())[metric]["value"] > 0.8
    step(folder, "predict", "--split", "test", "--model", bundle, "-o", folder / "out", "--run", "one", "--quiet")
    (case,) = (folder / "out" / "one" / "cases").iterdir()
    assert {path.stem for path in case.glob("*.tif")} == {*maps, "probability"}
    names = set(geopandas.read_file(case / "changes.gpkg")["class"])
    assert names & ({"bare to building", "grass to crop"} if task == "scd" else {"undamaged", "minor", "major"})
    assert not (folder / "out" / ".partial").exists()


@pytest.mark.slow
def test_the_baseline_without_a_scan_learns_both_tasks_and_the_report_compares_it(prepared):
    folder = prepared / "scd"
    bundle = folder / "fc_siam_conc"
    step(folder, "train", "--model", "fc_siam_conc", "-o", bundle, "--run", folder / "run_fc")
    for name, model in (("fc_siam_conc", bundle), ("differencing", "differencing")):
        step(folder, "evaluate", "--model", model, "-o", folder / "compared" / name)
    folders = [folder / "compared" / name for name in ("fc_siam_conc", "differencing")]
    assert call("remote-sensing", "report", folder / "cases.jsonl", *folders, "-o", folder / "report").code == 0
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    assert (metrics["task"], metrics["headline"]) == ("scd", "sek_pooled, fscd_pooled, miou_pooled")
    assert metrics["paired_difference"]["fc_siam_conc - differencing"]["fscd"]["value"] > 0.3


@pytest.mark.slow
def test_a_bundle_of_another_task_is_refused(prepared):
    folder = prepared / "bda"
    bundle = folder / "short"
    step(folder, "train", "--model", "fc_siam_conc", "-o", bundle, "--run", folder / "run_short", "--set", "steps=1")
    order = ("remote-sensing", "evaluate", prepared / "scd" / "cases.jsonl", "--model", bundle, "-o", folder / "no")
    assert "PTD-867" in call(*order, "--params", folder / "params.yaml").sentence()


def test_the_tasks_losses_are_those_of_the_published_code():
    torch.manual_seed(0)
    heads = [torch.randn(2, count, 6, 5) for count in (2, 7, 7, 5)]
    cover = torch.randint(0, 7, (2, 2, 6, 5))
    cover[:, 1] = torch.where(cover[:, 0] == 0, 0, 1 + cover[:, 1] % 6)
    cover[:, :, 0] = 255
    mask = torch.where(cover[:, 0] == 255, 255, (cover[:, 0] > 0).long())
    assert TASKS["bcd"].loss((heads[0],), mask[:, None]) == change_loss(heads[0], mask)
    expected = semantic_change_loss((heads[0], heads[1], heads[2]), (mask, cover[:, 0], cover[:, 1]))
    assert TASKS["scd"].loss((heads[0], heads[1], heads[2]), cover) == expected
    grade = torch.where(cover[:, :1] == 255, 255, cover[:, :1] % 5)
    building = torch.where(grade[:, 0] == 255, 255, (grade[:, 0] > 0).long())
    assert TASKS["bda"].loss((heads[0], heads[3]), grade) == damage_loss(heads[0], heads[3], (building, grade[:, 0]))


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_answer_scores_1_in_every_headline(name):
    task, rng = TASKS[name], np.random.default_rng(0)
    labels = rng.integers(1, 5 if name == "bda" else 7, (len(task.roles), 500)).astype("uint8")
    labels *= rng.integers(0, 2, 500).astype("uint8")
    if name == "bcd":
        labels = (labels > 0).astype("uint8")
    counts = task.count(labels[0] > 0, np.maximum(labels[: len(task.layers)], 1), labels)
    assert task.holds(counts)
    assert [task.score(counts)[metric] for metric in task.headline] == pytest.approx([1] * len(task.headline))
    assert task.score(2 * counts) == pytest.approx(dict(task.score(counts)))


def test_maps_of_covers_are_0_outside_the_mask_and_their_transition_is_both():
    from pentad.remote_sensing.legend import legends
    from pentad.remote_sensing.maps import draw
    from pentad.remote_sensing.strips import Strip

    classes = np.array([[[2, 2, 2]], [[5, 1, 2]]], "uint8")
    drawn = draw(TASKS["scd"], 0.5, Strip(0, np.array([[0.9, 0.9, 0.1]], "float32"), classes, np.ones((1, 3), bool)))
    assert {name: values.tolist() for name, values in drawn.maps.items()} == {
        "change": [[1, 1, 0]],
        "probability": [[180, 180, 20]],
        "cover_before": [[2, 2, 0]],
        "cover_after": [[5, 1, 0]],
        "transition": [[11, 7, 0]],
    }
    legend = legends(TASKS["scd"], [["a", "b", "c", "d", "e", "f"]] * 2)["transition"]
    assert (legend[11][0], legend[7][0], len(legend)) == ("b to e", "b to a", 37)
