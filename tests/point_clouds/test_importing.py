"""A checkpoint as the published training code writes it becomes a bundle that finds the same."""

import json
from pathlib import Path

import pytest
import torch
from command import call

from pentad.core import recipe
from pentad.point_clouds.predict import load_predictor

REFERENCE = Path(__file__).parents[1] / "reference" / "flatformer.waymo_backbone.json"
GRID = "grid: {range_m: [-20.48, -20.48, -2, 20.48, 20.48, 4], cell_m: [0.32, 0.32]}\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The official names and shapes with the recipe's weights, wrapped as MMCV's runner does."""
    tensors = json.loads(REFERENCE.read_text())["tensors"]
    shapes = {name: entry["shape"] if isinstance(entry, dict) else entry for name, entry in tensors.items()}
    state = {name: torch.from_numpy(values) for name, values in recipe.state_dict(shapes).items()}
    path = tmp_path_factory.mktemp("checkpoint") / "epoch_24.pth"
    torch.save({"meta": {"epoch": 24}, "state_dict": state, "optimizer": {}}, path)
    return path


def test_a_published_checkpoint_becomes_a_bundle(tmp_path, checkpoint):
    (tmp_path / "params.yaml").write_text(GRID)
    words = ["point-clouds", "models", "import", checkpoint, "-o", tmp_path / "b", "--params", tmp_path / "params.yaml"]
    result = call(*words)
    assert result.code == 0, result.err
    assert result.out.startswith("flatformer: 2.27 M parameters")
    predictor = load_predictor(str(tmp_path / "b"))
    assert predictor.settings.points.tanh
    assert predictor.settings.classes == ("car", "pedestrian", "cyclist")
    assert predictor.span == (-20.48, -20.48, -2, 20.48, 20.48, 4)
    again = call(*words)
    assert again.code == 2  # never replaced unasked


def test_other_classes_than_the_checkpoints_are_refused(tmp_path, checkpoint):
    result = call("point-clouds", "models", "import", checkpoint, "-o", tmp_path / "b", "--classes", "car,bus")
    assert result.code == 2
    assert result.sentence().startswith("PTD-935")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    result = call("point-clouds", "models", "import", tmp_path / "other.pth", "-o", tmp_path / "b")
    assert result.code == 5
    assert not (tmp_path / "b").exists()


def changed(checkpoint, target, change):
    content = torch.load(checkpoint, weights_only=True)
    change(content["state_dict"])
    torch.save(content, target)
    return target


def test_a_diverged_training_is_refused(tmp_path, checkpoint):
    file = changed(checkpoint, tmp_path / "e.pth", lambda state: state["neck.deblocks.0.0.weight"].mul_(float("nan")))
    result = call("point-clouds", "models", "import", file, "-o", tmp_path / "b")
    assert result.code == 5
    assert "PTD-887" in result.err
    assert "neck.deblocks.0.0.weight" in result.err


def test_windows_groups_and_suppression_are_told_by_params(tmp_path, checkpoint):
    encoder = "networks: {flatformer: {encoder: {window: [5, 7], group: 16, heads: 4}}}\n"
    (tmp_path / "params.yaml").write_text(GRID + encoder)

    def two_classes(state):
        for name in [name for name in state if ".heatmap.1." in name]:
            state[name] = state[name][:2]

    file = changed(checkpoint, tmp_path / "e.pth", two_classes)
    words = ["-o", tmp_path / "b", "--params", tmp_path / "params.yaml", "--classes", "car,cyclist"]
    result = call("point-clouds", "models", "import", file, *words)
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "b" / "config.json").read_text())["encoder"]
    assert (config["window"], config["group"], config["heads"], config["blocks"]) == ([5, 7], 16, 4, 2)
    assert load_predictor(str(tmp_path / "b")).settings.decode.for_class(1, 2) == (0.55, 1024, 100)
