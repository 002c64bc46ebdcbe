"""Score a liver and lesion segmentation against its reference, by voxels, surfaces and single lesions.

Conventions of the LiTS benchmark (Bilic et al., Medical Image Analysis 84, 2023, 102680): label 0 is
background, 1 liver, 2 lesion; lesions lie in the liver, so *liver* means label >= 1 and *lesion* label 2.
Arrays are ``(z, y, x)`` and spacings are millimetres in the same order.

=====================  ==============  =========================  =========================================
metric                 both empty      one empty                  otherwise
=====================  ==============  =========================  =========================================
``dice``, ``nsd``      1               0                          [0, 1]
``hd95_mm``            NaN             NaN                        >= 0
``volume_error_ml``    0               signed                     predicted minus reference
``precision``          NaN             NaN without a prediction   share of predicted lesions that are true
``recall``             NaN             NaN without a reference    share of reference lesions found
``f1``                 1               0                          harmonic mean of the two
=====================  ==============  =========================  =========================================

As LiTS has it, a prediction without any voxel of label 1 has liver Dice 0 where the reference has a liver.
NaN means "has no such value"; averages leave it out and state how many cases remain. A distance to nothing is
such a case, so read ``hd95_mm`` beside Dice, which is 0 there.

A lesion is a component connected through voxel faces. Lesions that overlap are matched by falling overlap; one
that is matched takes further partners while these are free, so that one that spans several is compared with
their union, and only one side of a match holds several. A match counts as found when intersection over union
exceeds 0.5. Beside it, ``_any`` counts a lesion as found when it shares a single voxel with the other side.

Surface metrics are MONAI's, on voxel borders of six neighbours; distances run between voxel centres.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pentad.core.errors import CaseError
from pentad.core.metrics import Interval, pooled_interval

# MONAI 1.6 warns of an argument that only MONAI itself passes.
warnings.filterwarnings("ignore", message="monai.metrics.utils get_mask_edges", category=FutureWarning)

Mask = NDArray[np.bool_]

# Liver as in the U-Mamba paper (arXiv 2401.04722); lesions get its strictest, that of the smallest structures.
TOLERANCES_MM: Mapping[str, float] = {"liver": 5.0, "lesion": 2.0}

# The metrics of `score_case` whose mean over cases says something; the others are counts, to pool or to plot.
SUMMARY_METRICS = (
    *("liver_dice", "liver_nsd", "liver_hd95_mm", "liver_volume_error_ml", "liver_volume_absolute_error_ml"),
    *("lesion_dice", "lesion_nsd", "lesion_hd95_mm", "lesion_volume_error_ml", "lesion_volume_absolute_error_ml"),
    *("lesion_precision", "lesion_recall", "lesion_f1"),
    *("lesion_precision_any", "lesion_recall_any", "lesion_f1_any", "tumour_burden_error"),
)


def score_case(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: Sequence[float],
    tolerances_mm: Mapping[str, float] = TOLERANCES_MM,
) -> dict[str, float]:
    """Return all metrics of one case by flat names, as the module's table defines them.

    For both ``liver`` and ``lesion``: ``_dice``, ``_nsd`` (normalised surface Dice), ``_hd95_mm`` (95th
    percentile of the symmetric surface distance), ``_volume_ml`` and ``_predicted_volume_ml``,
    ``_volume_error_ml`` (signed) and ``_volume_absolute_error_ml``, ``_reference_voxels``,
    ``_predicted_voxels`` and ``_overlap_voxels``. For lesions also ``_count``, ``_predicted_count``,
    ``_found_count``, ``_true_count``, ``_precision``, ``_recall``, ``_f1``, and the last five with ``_any``.
    ``tumour_burden_error`` is the predicted minus the true share of lesion in liver voxels.

    Args:
        prediction: Labels ``(z, y, x)``.
        reference: Labels ``(z, y, x)``.
        spacing: Distance of voxel centres along z, y and x in mm.
        tolerances_mm: Distance in mm up to which a surface counts as equal, for ``liver`` and ``lesion``.

    Raises:
        CaseError: Shapes differ, a label is none of 0, 1 and 2, or the spacing is not three positive numbers.
    """
    predicted, true = _cropped(prediction, reference, spacing)
    metrics = score_organ(predicted >= 1, true >= 1, spacing, tolerances_mm["liver"], "liver")
    metrics["liver_dice"] = _liver_dice(predicted, true)
    metrics |= score_organ(predicted == 2, true == 2, spacing, tolerances_mm["lesion"], "lesion")
    metrics |= _detection(match_lesions(predicted == 2, true == 2))
    burdens = [
        _ratio(metrics[f"lesion_{side}_voxels"], metrics[f"liver_{side}_voxels"]) for side in ("predicted", "reference")
    ]
    return {**metrics, "tumour_burden_error": burdens[0] - burdens[1]}


def score_labels(prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float]) -> dict[str, float]:
    """Return ``liver_dice``, ``lesion_dice`` and ``lesion_f1`` alone, as `score_case` has them and much faster.

    Raises:
        CaseError: As for `score_case`.
    """
    predicted, true = _cropped(prediction, reference, spacing)
    return {
        "liver_dice": _liver_dice(predicted, true),
        "lesion_dice": dice(predicted == 2, true == 2),
        "lesion_f1": _detection(match_lesions(predicted == 2, true == 2))["lesion_f1"],
    }


def _liver_dice(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> float:
    missed = not (predicted == 1).any() and bool((true >= 1).any())
    return 0.0 if missed else dice(predicted >= 1, true >= 1)


def score_organ(
    prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance_mm: float, name: str
) -> dict[str, float]:
    """Return overlap, surface and volume metrics of one structure, each name beginning with ``name``.

    Args:
        prediction: Where the structure was predicted, ``(z, y, x)``.
        reference: Where it is.
        spacing: Distance of voxel centres along z, y and x in mm.
        tolerance_mm: Tolerance of the surface Dice.
        name: First part of the metrics' names.
    """
    voxel_ml = math.prod(spacing) / 1000
    predicted, true = int(prediction.sum()), int(reference.sum())
    metrics = {
        "dice": dice(prediction, reference),
        "nsd": surface_dice(prediction, reference, spacing, tolerance_mm),
        "hd95_mm": hausdorff_mm(prediction, reference, spacing),
        "volume_ml": true * voxel_ml,
        "predicted_volume_ml": predicted * voxel_ml,
        "volume_error_ml": (predicted - true) * voxel_ml,
        "volume_absolute_error_ml": abs(predicted - true) * voxel_ml,
        "reference_voxels": float(true),
        "predicted_voxels": float(predicted),
        "overlap_voxels": float((prediction & reference).sum()),
    }
    return {f"{name}_{metric}": value for metric, value in metrics.items()}


def dice(prediction: Mask, reference: Mask) -> float:
    """Return twice the intersection over the sum of both sizes; 1 where both are empty."""
    sizes = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / sizes if sizes else 1.0


def surface_dice(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance_mm: float) -> float:
    """Return the share of both surfaces within the tolerance of the other; 1 if both are empty, 0 if one is.

    Nikolov et al., arXiv 1809.04430, on border voxels, each counting once.
    """
    if not (prediction.any() and reference.any()):
        return float(prediction.any() == reference.any())
    share = compute_surface_dice(
        _as_batch(prediction),
        _as_batch(reference),
        class_thresholds=[tolerance_mm],
        include_background=True,
        spacing=list(spacing),
    )
    return float(share)


def hausdorff_mm(prediction: Mask, reference: Mask, spacing: Sequence[float], percentile: float | None = 95.0) -> float:
    """Return the larger of both directions' percentile of surface distances in mm; NaN if a mask is empty.

    Args:
        prediction: Where the structure was predicted, ``(z, y, x)``.
        reference: Where it is.
        spacing: Distance of voxel centres along z, y and x in mm.
        percentile: Percentile of the distances; None for the largest (the plain Hausdorff distance).
    """
    if not (prediction.any() and reference.any()):
        return math.nan
    distance = compute_hausdorff_distance(
        _as_batch(prediction),
        _as_batch(reference),
        include_background=True,
        percentile=percentile,
        spacing=list(spacing),
    )
    return float(distance)


@dataclass(frozen=True)
class LesionMatches:
    """Lesions of both sides and how they are matched; arrays hold one entry a lesion.

    Attributes:
        reference_voxels: Size of each reference lesion.
        predicted_voxels: Size of each predicted lesion.
        reference_match: Number of each reference lesion's match, -1 for none.
        predicted_match: Number of each predicted lesion's match, -1 for none.
        reference_touched: Whether any predicted lesion voxel lies in it.
        predicted_touched: Whether it holds any reference lesion voxel.
        iou: Intersection over union of each match.
    """

    reference_voxels: NDArray[np.int64]
    predicted_voxels: NDArray[np.int64]
    reference_match: NDArray[np.int64]
    predicted_match: NDArray[np.int64]
    reference_touched: Mask
    predicted_touched: Mask
    iou: NDArray[np.float64]

    def ious(self, side: str) -> NDArray[np.float64]:
        """Return the IoU of the match of each lesion of a side (``reference`` or ``predicted``), 0 for none."""
        matches = self.reference_match if side == "reference" else self.predicted_match
        return np.append(self.iou, 0.0)[matches]


def match_lesions(prediction: Mask, reference: Mask) -> LesionMatches:
    """Return the lesions of both masks and their matches, as the module's text defines them."""
    predicted, predicted_count = ndimage.label(prediction)
    true, true_count = ndimage.label(reference)
    pairs = predicted.astype(np.int64) * (true_count + 1) + true
    table = np.bincount(pairs.ravel(), minlength=(predicted_count + 1) * (true_count + 1))
    table = table.reshape(predicted_count + 1, true_count + 1)
    predicted_voxels, true_voxels, overlap = table.sum(axis=1)[1:], table.sum(axis=0)[1:], table[1:, 1:]
    predicted_match, true_match = _match(overlap)
    ious = []
    for number in range(max(predicted_match.max(initial=-1), true_match.max(initial=-1)) + 1):
        rows, columns = predicted_match == number, true_match == number
        shared = int(overlap[np.ix_(rows, columns)].sum())
        ious.append(shared / int(predicted_voxels[rows].sum() + true_voxels[columns].sum() - shared))
    return LesionMatches(
        true_voxels,
        predicted_voxels,
        true_match,
        predicted_match,
        overlap.sum(axis=0) > 0,
        overlap.sum(axis=1) > 0,
        np.array(ious, dtype=np.float64),
    )


def lesion_rows(
    prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float]
) -> list[dict[str, str | int | float]]:
    """Return one row for each reference lesion, then one for each predicted lesion.

    A row holds ``side`` (``reference`` or ``predicted``), ``lesion`` (number from 1), ``volume_mm3``,
    ``diameter_mm`` (of the ball of that volume), ``found`` (1 if its match has IoU > 0.5; for a predicted
    lesion: it is true), ``found_any`` (1 if it shares a voxel with the other side), and ``iou`` and ``dice`` of
    its match, 0 without one.

    Args:
        prediction: Labels ``(z, y, x)``.
        reference: Labels ``(z, y, x)``.
        spacing: Distance of voxel centres along z, y and x in mm.

    Raises:
        CaseError: As for `score_case`.
    """
    predicted, true = _cropped(prediction, reference, spacing)
    matches = match_lesions(predicted == 2, true == 2)
    sides = (
        ("reference", matches.reference_voxels, matches.reference_touched),
        ("predicted", matches.predicted_voxels, matches.predicted_touched),
    )
    return [
        {"side": side, "lesion": number, **_lesion(float(size) * math.prod(spacing), bool(touch), float(iou))}
        for side, sizes, touched in sides
        for number, (size, touch, iou) in enumerate(zip(sizes, touched, matches.ious(side), strict=True), 1)
    ]


def _lesion(volume_mm3: float, touched: bool, iou: float) -> dict[str, int | float]:
    return {
        "volume_mm3": volume_mm3,
        "diameter_mm": (6 * volume_mm3 / math.pi) ** (1 / 3),
        "found": int(iou > 0.5),
        "found_any": int(touched),
        "iou": iou,
        "dice": 2 * iou / (1 + iou),
    }


def pooled_metrics(
    cases: Sequence[Mapping[str, float]], seed: int, groups: Sequence[str] | None = None
) -> dict[str, Interval]:
    """Return values over all cases' voxels and lesions together, with intervals from drawing cases.

    ``liver_dice_global`` and ``lesion_dice_global`` (LiTS' global Dice), and the pooled ``lesion_precision``,
    ``_recall`` and ``_f1``, for both rules of finding.

    Args:
        cases: Metrics of each case, from `score_case`.
        seed: Seed of the bootstrap.
        groups: The group of each case; cases of one group are drawn together.
    """
    pooled = {}
    for name in ("liver", "lesion"):
        columns = [f"{name}_{part}_voxels" for part in ("overlap", "predicted", "reference")]
        pooled[f"{name}_dice_global"] = pooled_interval(_table(cases, columns), _pooled_dice, seed=seed, groups=groups)
    formulas = {
        "precision": lambda sums: sums[..., 1] / sums[..., 3],
        "recall": lambda sums: sums[..., 0] / sums[..., 2],
        "f1": _pooled_f1,
    }
    for rule in ("", "_any"):
        columns = [f"lesion_found_count{rule}", f"lesion_true_count{rule}", "lesion_count", "lesion_predicted_count"]
        for name, formula in formulas.items():
            pooled[f"lesion_{name}{rule}_pooled"] = pooled_interval(
                _table(cases, columns), formula, seed=seed, groups=groups
            )
    return pooled


def _detection(matches: LesionMatches) -> dict[str, float]:
    """Counts, precision, recall and F1 over the lesions of one case."""
    true_count, predicted_count = len(matches.reference_voxels), len(matches.predicted_voxels)
    metrics = {"lesion_count": float(true_count), "lesion_predicted_count": float(predicted_count)}
    hits = {
        "": (matches.ious("reference") > 0.5, matches.ious("predicted") > 0.5),
        "_any": (matches.reference_touched, matches.predicted_touched),
    }
    for rule, (found, correct) in hits.items():
        precision, recall = _ratio(correct.sum(), predicted_count), _ratio(found.sum(), true_count)
        metrics |= {
            f"lesion_found_count{rule}": float(found.sum()),
            f"lesion_true_count{rule}": float(correct.sum()),
            f"lesion_precision{rule}": precision,
            f"lesion_recall{rule}": recall,
            f"lesion_f1{rule}": _f1(precision, recall),
        }
    return metrics


def _match(overlap: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the match of each predicted (rows) and each reference lesion (columns), -1 for none."""
    predicted, true = (np.full(count, -1, dtype=np.int64) for count in overlap.shape)
    rows, columns = np.nonzero(overlap)
    # By falling overlap; equal ones in the order of the reference, then of the prediction.
    order = np.lexsort((rows, columns, -overlap[rows, columns]))
    matches = 0
    for row, column in zip(rows[order], columns[order], strict=True):
        if predicted[row] < 0 and true[column] < 0:
            predicted[row] = true[column] = matches
            matches += 1
        elif true[column] < 0 and (predicted == predicted[row]).sum() == 1:
            true[column] = predicted[row]
        elif predicted[row] < 0 and (true == true[column]).sum() == 1:
            predicted[row] = true[column]
    return predicted, true


def _cropped(
    prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both label arrays as uint8, cut to the box around everything labelled: no metric looks outside of it."""
    predicted, true = _as_labels(prediction, "prediction"), _as_labels(reference, "reference")
    if predicted.shape != true.shape or true.ndim != 3:
        raise CaseError(
            "PTD-311",
            f"a prediction of shape {predicted.shape} for a reference of shape {true.shape}",
            "give two volumes (z, y, x) on one grid",
        )
    if len(spacing) != 3 or not all(math.isfinite(length) and length > 0 for length in spacing):
        raise CaseError("PTD-313", f"a spacing of {tuple(spacing)} mm", "give three positive lengths (z, y, x) in mm")
    labelled = (predicted > 0) | (true > 0)
    box = ndimage.find_objects(labelled.astype(np.uint8))
    place = box[0] if box else (slice(0, 1),) * 3
    return predicted[place], true[place]


def _as_labels(labels: ArrayLike, name: str) -> NDArray[np.uint8]:
    given = np.asarray(labels)
    with np.errstate(invalid="ignore"):  # NaN becomes some number and is then told apart by comparison
        array = given.astype(np.uint8)
    wrong = (array != given) | (array > 2)
    if wrong.any():
        raise CaseError(
            "PTD-312",
            f"the {name} holds the label {given[wrong][0]:g}",
            "label 0 background, 1 liver, 2 lesion and nothing else",
        )
    return array


def _as_batch(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]  # (batch, class, z, y, x)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _f1(precision: float, recall: float) -> float:
    if math.isnan(precision) and math.isnan(recall):
        return 1.0
    # One side without lesions leaves the other's share at 0 and its own at NaN.
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _pooled_dice(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))


def _pooled_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 from sums of found, true, reference and predicted lesions; NaN where there is no lesion at all."""
    found, correct, count, predicted = (sums[..., column] for column in range(4))
    precision, recall = correct / np.maximum(predicted, 1), found / np.maximum(count, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return np.where(count + predicted > 0, f1, np.nan)


def _table(cases: Sequence[Mapping[str, float]], columns: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[case[column] for column in columns] for case in cases], dtype=np.float64).reshape(
        -1, len(columns)
    )
