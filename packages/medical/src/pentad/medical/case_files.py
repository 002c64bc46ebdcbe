"""The files of one segmented case: label map, DICOM SEG and SR, volumes, quality, and the page for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.files import digest_files, write_json
from pentad.core.run import code_version
from pentad.medical.findings import Finding, count_lesions, find
from pentad.medical.ingest import Scan
from pentad.medical.outputs import CARD, FILES, USE
from pentad.medical.predictors import Predictor
from pentad.medical.qc import Quality, Reference, check, short_texts
from pentad.medical.training_range import volumes_ml
from pentad.medical.volumes import Volume, canonical, restore, write_nifti

if TYPE_CHECKING:  # heavy libraries, which neither a run without them nor the process that hands out cases needs
    from pentad.medical.page import ShownCase
    from pentad.medical.predict import Prediction
    from pentad.medical.seg import Algorithm


@dataclass(frozen=True)
class Result:
    """A segmented case with all that is said of it.

    Attributes:
        case: The case's id.
        scan: The scan as read.
        upright: The scan in canonical orientation.
        label: Class values on the scan's own grid.
        upright_label: The same in canonical orientation.
        numbers: Finding of every voxel on the scan's own grid.
        findings: What was found, measured.
        volumes: Column to volume, ml.
        quality: Flags.
        agreement: Of single answers, by class.
        statement: What made it.
    """

    case: str
    scan: Scan
    upright: Volume
    label: NDArray[np.uint8]
    upright_label: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    findings: Sequence[Finding]
    volumes: Mapping[str, float]
    quality: Quality
    agreement: Mapping[str, float]
    statement: Mapping[str, Any]


def examine(
    case: str, scan: Scan, prediction: Prediction, predictor: Predictor, statement: Mapping[str, Any]
) -> Result:
    """Measure what was found and check its quality."""
    upright, how = canonical(scan.volume)
    label = prediction.label
    upright_label = canonical(Volume(label, scan.volume.affine))[0].array
    findings, numbers = find(upright, upright_label, predictor.classes)
    volumes = volumes_ml(label, scan.volume.spacing, predictor.classes)
    reference = Reference(predictor.classes, predictor.training, predictor.intensity)
    quality = check(upright, upright_label, volumes, prediction.agreement, reference)
    return Result(
        case=case,
        scan=scan,
        upright=upright,
        label=label,
        upright_label=upright_label,
        numbers=restore(numbers, how),
        findings=findings,
        volumes=volumes,
        quality=quality,
        agreement=prediction.agreement,
        statement={**statement, "model_name": predictor.name, "use": USE},
    )


def _write_label(folder: Path, result: Result, predictor: Predictor) -> None:
    write_nifti(folder / FILES["nifti"], Volume(result.label, result.scan.volume.affine))


def _write_seg(folder: Path, result: Result, predictor: Predictor) -> None:
    from pentad.medical.seg import segments_of, write_seg

    if result.scan.series is not None:
        segments = segments_of(result.findings, predictor.classes)
        algorithm = _algorithm(result, predictor)
        write_seg(folder / FILES["seg"], result.label, result.scan.series, segments, algorithm, result.numbers)


def _write_sr(folder: Path, result: Result, predictor: Predictor) -> None:
    from pentad.medical.seg import segments_of
    from pentad.medical.sr import Measurements, write_sr

    if result.scan.series is not None:
        segments = segments_of(result.findings, predictor.classes)
        measured = Measurements(result.findings, result.volumes, short_texts(list(result.quality.flags)))
        algorithm = _algorithm(result, predictor)
        write_sr(folder / FILES["sr"], folder / FILES["seg"], result.scan.series, segments, measured, algorithm)


def _write_page(folder: Path, result: Result, predictor: Predictor) -> None:
    from pentad.medical.page import write_case_page

    write_case_page(folder / FILES["page"], _shown(result, predictor))


def _write_pdf(folder: Path, result: Result, predictor: Predictor) -> None:
    from pentad.medical.pdf import write_case_pdf

    write_case_pdf(folder / FILES["pdf"], _shown(result, predictor))


# In the order of writing: a report speaks of the segmentation beside it.
_WRITERS: dict[str, Callable[[Path, Result, Predictor], None]] = {
    "nifti": _write_label,
    "seg": _write_seg,
    "sr": _write_sr,
    "page": _write_page,
    "pdf": _write_pdf,
}


def write_files(folder: Path, result: Result, predictor: Predictor, outputs: Sequence[str]) -> None:
    """Write the outputs asked for, and always ``volumes.json`` and ``qc.json``."""
    for name in outputs:
        _WRITERS[name](folder, result, predictor)
    bounds, flags = result.quality.lower_bounds, list(result.quality.flags)
    measured = {
        "volumes": result.volumes,
        "lower_bounds": bounds,
        "lesions": count_lesions(result.findings),
        "findings": [item.to_mapping() for item in result.findings],
        "classes": predictor.classes,
        "flags": flags,
        "provenance": result.statement,
    }
    write_json(folder / "volumes.json", measured)
    quality = {**result.quality.to_mapping(), "agreement": result.agreement, "provenance": result.statement}
    write_json(folder / "qc.json", quality)


def row(folder: Path, result: Result) -> dict[str, str | int | float]:
    """Return the case's own columns of the worklist: volumes, counts, and the paths of its files within the run."""
    links = {name: f"cases/{result.case}/{file}" for name, file in FILES.items() if (folder / file).is_file()}
    return {
        **result.volumes,
        "lower_bounds": ";".join(result.quality.lower_bounds),
        "lesions": count_lesions(result.findings),
        "slices": result.label.shape[0],
        **links,
    }


def _algorithm(result: Result, predictor: Predictor) -> Algorithm:
    from pentad.medical.seg import Algorithm

    version = code_version("medical")
    series = result.scan.series
    return Algorithm(
        name=predictor.name,
        version=f"{version['pentad-medical']} {version['source']}",
        model=predictor.digest,
        config=str(result.statement["config"]),
        # Of the images' bytes, whatever their files are called: a copy of a study is the same study.
        input=digest_files(series.files) if series else "",
    )


def _shown(result: Result, predictor: Predictor) -> ShownCase:
    from pentad.medical.page import ShownCase

    return ShownCase(
        case=result.case,
        scan=result.upright,
        label=result.upright_label,
        volumes=result.volumes,
        findings=result.findings,
        quality=result.quality,
        provenance=result.statement,
        training=predictor.training,
        card=f"../../{CARD}",
    )
