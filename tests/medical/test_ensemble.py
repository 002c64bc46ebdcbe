"""Several models and mirrored passes as one predictor, alone and by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call
from medical.tiny_cases import GRID, tiny_ct
from torch import Tensor, nn

from pentad.core.bundle import read_manifest
from pentad.core.errors import UsageError
from pentad.core.files import digest_json
from pentad.medical.agreement import Agreement, winners
from pentad.medical.plan import Normalisation
from pentad.medical.predict import Settings, check_members, predict_ensemble, predict_volume
from pentad.medical.predictors import load_predictor
from pentad.medical.preprocess import Preprocessing
from pentad.medical.volumes import Volume, write_nifti

LIVER = {"liver": 1}


class Sure(nn.Module):
    """Says liver above ``level``, with logits of ``strength``."""

    def __init__(self, level: float, strength: float) -> None:
        super().__init__()
        self.level, self.strength = level, strength

    def forward(self, image: Tensor) -> Tensor:
        liver = torch.where(image > self.level, self.strength, -self.strength)
        return torch.cat([torch.zeros_like(liver), liver], dim=1)


class Sided(nn.Module):
    """Says liver in the first half of the last axis, wherever the window lies."""

    def forward(self, image: Tensor) -> Tensor:
        liver = torch.full_like(image, -3.0)
        liver[..., : image.shape[-1] // 2] = 3.0
        return torch.cat([torch.zeros_like(liver), liver], dim=1)


def settings(
    patch: tuple[int, ...] = (8, 8, 8), spacing: tuple[float, ...] = (2.0, 1.0, 1.0), **others: object
) -> Settings:
    preprocessing = Preprocessing(spacing, others.pop("transpose", (0, 1, 2)), Normalisation("none"))
    return Settings(others.pop("classes", LIVER), preprocessing, patch, **others)


@pytest.fixture
def scan() -> Volume:
    values = np.random.default_rng(3).normal(0, 1, (10, 12, 14)).astype(np.float32)
    return Volume(values, np.diag([1.0, 1.0, 2.0, 1.0]))


def test_the_class_of_the_largest_mean_probability_wins(scan):
    members = [(Sure(0.5, 1.0), settings()), (Sure(-0.5, 4.0), settings())]
    label = predict_ensemble(members, scan).label
    # Between the two levels the second model's certainty outweighs the first's doubt.
    assert np.array_equal(label > 0, scan.array > -0.5)
    even = [(Sure(0.5, 4.0), settings()), (Sure(-0.5, 1.0), settings())]
    assert np.array_equal(predict_ensemble(even, scan).label > 0, scan.array > 0.5)


def test_one_model_asked_twice_answers_as_alone(scan):
    torch.manual_seed(0)
    model = nn.Conv3d(1, 2, 3, padding=1)
    alone = predict_volume(model, settings(), scan)
    twice = predict_ensemble([(model, settings())] * 2, scan)
    assert np.array_equal(twice.label, alone.label)
    assert twice.agreement == {"liver": 1.0}
    assert alone.agreement == {}


@pytest.mark.parametrize(
    "other", [settings((8, 16, 8)), settings(spacing=(3.0, 1.5, 0.8)), settings((8, 8), (1.0, 1.0))]
)
def test_models_of_other_patches_and_spacings_and_slice_models_answer_together(other, scan):
    model = Sure(5.0, 2.0)
    flat = Volume(np.where(scan.array > 0, 9.0, -9.0).astype(np.float32).repeat(3, 0), scan.affine)
    flat.array[:10], flat.array[10:] = -9.0, 9.0
    label = predict_ensemble([(model, settings()), (model, other)], flat).label
    assert not label[:9].any()
    assert label[11:].all()


def test_agreement_is_the_share_that_single_answers_have_in_common(scan):
    members = [(Sure(0.5, 1.0), settings()), (Sure(-0.5, 4.0), settings())]
    narrow, wide = (scan.array > 0.5).sum(), (scan.array > -0.5).sum()
    # The final answer is the wide one: the first model shares `narrow` of it, the second all.
    assert predict_ensemble(members, scan).agreement["liver"] == pytest.approx((narrow + wide) / (2 * wide), abs=1e-4)


def test_mirrored_passes_that_contradict_each_other_show_in_the_agreement(scan):
    plain = predict_volume(Sided(), settings((10, 12, 14)), scan)
    mirrored = predict_volume(Sided(), settings((10, 12, 14), mirror=True), scan)
    assert plain.agreement == {}
    assert mirrored.agreement.get("liver", 0.0) < 0.6


def test_agreement_counts_each_class_by_itself():
    counted = Agreement({"liver": 1, "lesion": 2})
    counted.add(torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 2, 0]))
    assert counted.result() == {"liver": 0.5, "lesion": round(1 / 3, 4)}


def test_models_of_other_classes_or_axes_cannot_answer_together():
    with pytest.raises(UsageError, match=r"PTD-553 .*1 liver and 1 spleen"):
        check_members([settings(), settings(classes={"spleen": 1})])
    with pytest.raises(UsageError, match="PTD-554"):
        check_members([settings(), settings(transpose=(1, 0, 2))])


def test_a_baseline_has_no_probabilities_to_average(trained):
    with pytest.raises(UsageError, match="PTD-555"):
        load_predictor(f"{trained / 'bundle'},threshold")


def test_the_bundle_carries_what_its_training_scans_were_like(trained):
    training = load_predictor(str(trained / "bundle"), "cpu").training
    assert training is not None
    assert training.cases == 2
    assert training.spacing[0] == (4.0, 4.0)
    low, high = training.hu["liver"]
    assert 105 < low <= high < 115


@pytest.mark.slow
def test_the_command_takes_several_bundles_and_mirrors_and_states_the_digest_of_the_list(trained, tmp_path):
    write_nifti(tmp_path / "in" / "a.nii.gz", Volume(tiny_ct(0), GRID))
    options = ("-o", tmp_path, "--device", "cpu", "--outputs", "page")
    models = ("--model", trained / "bundle", "--model", trained / "bundle")
    assert call("medical", "predict", tmp_path / "in", *models, *options, "--run", "two", "--mirror").code == 0
    comma = ("--model", f"{trained / 'bundle'},{trained / 'bundle'}")
    assert call("medical", "predict", tmp_path / "in", *comma, *options, "--run", "comma").code == 0
    two, joined = (identity(tmp_path / name) for name in ("two", "comma"))
    assert two["model"] == joined["model"] == digest_json([read_manifest(trained / "bundle")["digest"]] * 2)
    assert two["config"] != joined["config"]
    quality = json.loads((tmp_path / "two" / "cases" / "a" / "qc.json").read_text())
    assert "disagreement" not in quality["unchecked"]
    assert quality["provenance"]["model"] == two["model"]


def identity(run: Path) -> dict[str, str]:
    stated: dict[str, str] = json.loads((run / "run.json").read_text())["identity"]
    return stated


@pytest.mark.parametrize("classes", [2, 3, 14])
def test_the_winner_is_the_first_of_the_largest_logits(classes):
    logits = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (2, classes, 5, 6, 7)).astype(np.float32))
    assert torch.equal(winners(logits).long(), logits.argmax(1))


def test_agreement_is_counted_for_more_classes_than_pairs_fit_a_byte():
    agreement = Agreement({str(value): value for value in range(1, 20)})
    final = torch.arange(20, dtype=torch.uint8)
    agreement.add(final, final.clone())
    assert agreement.result() == {str(value): 1.0 for value in range(1, 20)}
