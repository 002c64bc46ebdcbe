"""Measures the memory and time of ``pentad medical predict`` on a study of 1,200 slices of 512 x 512.

A synthetic abdomen is enlarged to that size, written as DICOM or NIfTI, and predicted by the whole command with a
bundle of yours, in its own processes. The bundle's windows are widened to whole slices, which changes no volume that is
held and lets the measurement end in minutes. Prints a line and, unless --quick is given, writes
benchmarks/medical_large_study.json and .md.

    python benchmarks/medical_large_study.py --model pipelines/liver_seg/bundles/dynunet [--format nifti] [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from process_tree import run

from pentad.core.bundle import load_bundle, save_bundle
from pentad.medical.models import MODELS
from pentad.medical.phantom import build
from pentad.medical.predict import Settings
from pentad.medical.sample_files import Series, Study, write_images
from pentad.medical.samples import SCANS
from pentad.medical.volumes import Volume, write_nifti

LIMIT_MB = 6 * 1024
FIELD_MM, DEPTH_MM = 350.0, 840.0


def enlarged(slices: int, size: int) -> NDArray[np.int16]:
    """Return a sample patient's CT numbers with noise, (slices, size, size), towards head, back and left."""
    patient = next(iter(SCANS.values())).patient
    hu = build(patient).hu
    places = [np.arange(count) * length // count for count, length in zip((slices, size, size), hu.shape, strict=True)]
    rng = np.random.default_rng(0)
    image = np.empty((slices, size, size), np.int16)
    for target, source in enumerate(places[0]):
        image[target] = hu[source][np.ix_(places[1], places[2])] + rng.normal(0, 12, (size, size))
    return image


def write_study(folder: Path, image: NDArray[np.int16], kind: str) -> Path:
    """Write the image as a study of DICOM files or as one NIfTI file, and return where."""
    slices, size, _ = image.shape
    depth, width = DEPTH_MM / slices, FIELD_MM / size
    if kind == "nifti":
        write_nifti(folder / "large.nii", Volume(image, np.diag([width, width, depth, 1.0])))
        return folder / "large.nii"
    positions = tuple((0.0, 0.0, depth * place) for place in range(slices))
    attributes = {"SliceThickness": depth, "SeriesDescription": "Portal venous", "ConvolutionKernel": "SOFT"}
    series = Series("axial", 2, attributes, image, positions, spacing=(width, width))
    write_images(folder / "large", Study("large", 1, "HFS"), [series])
    return folder / "large"


def widened(bundle: str, folder: Path) -> Path:
    """Write the 2-D bundle with windows of a whole slice, and return where."""
    found = load_bundle(bundle, "medical", {name: cls for name, (_, cls) in MODELS.items()})
    settings = Settings.from_mapping(found.settings)
    edge = -(-round(FIELD_MM / settings.preprocessing.spacing[-1]) // 32) * 32
    wide = replace(settings, patch_size=(edge, edge))
    statement = {"settings": wide.to_mapping(), "card": "", "provenance": {}}
    save_bundle(folder, found.model, domain="medical", name=found.name, **statement)
    return folder


def main() -> None:
    """Write the study, predict it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle's folder")
    parser.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    parser.add_argument("--slices", type=int, default=1200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--study", type=Path, help="a study of that size and format instead of writing one")
    parser.add_argument("--write-only", type=Path, help="write the study into this folder and predict nothing")
    parser.add_argument("--outputs", default="nifti,seg,page")
    parser.add_argument("--quick", action="store_true", help="120 slices of 256 x 256, nothing written")
    given = parser.parse_args()
    slices, size = (120, 256) if given.quick else (given.slices, given.size)
    if given.write_only:
        print(write_study(given.write_only, enlarged(slices, size), given.format))
        return
    with tempfile.TemporaryDirectory() as folder:
        study = given.study or write_study(Path(folder), enlarged(slices, size), given.format)
        model = widened(given.model, Path(folder) / "bundle")
        call = [sys.executable, "-m", "pentad.core", "medical", "predict", str(study), "-o", f"{folder}/out"]
        done = run([*call, "--model", str(model), "--outputs", given.outputs, "--device", "cpu", "--run", "large"])
        if done.code:
            raise SystemExit(done.output)
        written = sorted(path.name for path in Path(folder, "out", "large", "cases").rglob("*") if path.is_file())
    row = {"slices": slices, "size": size, "format": given.format, "seconds": round(done.seconds, 1)}
    row |= {"peak_mb": round(done.peak_mb), "threads": torch.get_num_threads(), "written": written}
    print(f"{slices} x {size} x {size} {given.format}: {done.seconds:.0f} s, peak {done.peak_mb:.0f} MB of {LIMIT_MB}")
    if not given.quick:
        Path(__file__).with_suffix(".json").write_text(json.dumps(row, indent=1) + "\n")
        Path(__file__).with_suffix(".md").write_text(table(row))


def table(row: dict[str, Any]) -> str:
    """Return the measurement as Markdown."""
    voxels = f"{row['slices']} x {row['size']} x {row['size']}"
    head = "| study | voxels | seconds | peak, MB | limit, MB | written |\n|---|---|---|---|---|---|\n"
    cells = (row["format"], voxels, f"{row['seconds']:.0f}", row["peak_mb"], LIMIT_MB, ", ".join(row["written"]))
    return f"{head}| {' | '.join(map(str, cells))} |\n"


if __name__ == "__main__":
    main()
