"""Compares batch inference with nnU-Net v2's own predictor: the same weights, windows, overlap and mirroring.

Measured in fresh processes, the variants taking turns and the best time counting: *studies*, from an image file to a
label file by the whole command (ours: ``pentad medical predict``; theirs: ``predict_from_files`` with its default
processes, and ``predict_from_files_sequential``), of the whole scan and of its middle slices; *windows*, from the
preprocessed middle slices to logits on their grid; *imports*, what is in memory before any work. All in float32 on the
CPU. nnU-Net adds its weighted windows up in half precision, so labels and logits are compared with a tolerance;
post-processing is off.

nnU-Net is no dependency of ours: install it beside, without its copy of torch, and name the folder.

    pip install --target PEERS --no-deps nnunetv2 acvl-utils batchgenerators batchgeneratorsv2 \
        dynamic-network-architectures blosc2 ndindex msgpack numexpr httpx pandas scikit-image lazy-loader tifffile
    python benchmarks/medical_predict.py [SCAN] --peers PEERS [--bundle BUNDLE] [--configurations 2d 3d 3d-wide]

SCAN is a NIfTI file or a folder with one DICOM series; without one, a synthetic abdomen of 78 x 512 x 512 voxels is
taken. Without --bundle the 2-D network has random weights, as the others always do; 3d-wide is measured on windows
alone, of a crop, for its convolutions take minutes a slab.
Prints tables and writes benchmarks/medical_predict.json and .md; a configuration that is not measured keeps its tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medical_large_study import FIELD_MM, enlarged
from process_tree import run

from pentad.core.bundle import load_bundle, save_bundle
from pentad.core.cases import Case
from pentad.medical.models import MODELS
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.plan import Intensity, Normalisation
from pentad.medical.postprocess import PostProcessing
from pentad.medical.predict import Settings, predict_logits
from pentad.medical.preprocess import Preprocessing, preprocess
from pentad.medical.volumes import Volume, canonical, read_label, read_nifti, write_nifti

CLASSES = {"liver": 1, "lesion": 2}
CT = Normalisation("ct", intensity=Intensity(60.0, 65.0, 60.0, -1000.0, 1000.0, low=-150.0, high=200.0))
# name: patch, spacing, features
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]] = {
    "2d": ((96, 96), (1.7578125, 1.7578125), (12, 24, 48, 96, 128)),
    "3d": ((32, 96, 96), (3.0, 1.7578125, 1.7578125), (8, 16, 32, 64)),
    # As wide as nnU-Net plans them: convolutions that oneDNN does well whoever calls it.
    "3d-wide": ((32, 96, 96), (3.0, 1.7578125, 1.7578125), (32, 64, 128, 256, 320)),
}
STUDIES = ("pentad", "nnunet parallel", "nnunet sequential")
WINDOWS = ("pentad", "nnunet")
# Size of the scan that stands in for a real one, and of the parts that are measured beside a whole one.
SLICES, PIXELS, SLICE_MM = 78, 512, 5.0
MIDDLE_SLICES, CROP_PIXELS = 24, 260
PARTS = ("studies", "windows", "imports")
# What a process that predicts has in memory before it sees a scan.
IMPORTS = {
    "torch": "torch",
    "pentad": "pentad.core.bundle, pentad.medical.case_files, pentad.medical.infer, pentad.medical.models, "
    "pentad.medical.predict",
    "nnunet": "nnunetv2.inference.predict_from_raw_data",
}


def network(configuration: str, source: str, folder: Path) -> Path:
    """Write the bundle of a configuration, with mirroring and without post-processing, and return its folder."""
    patch, spacing, features = NETWORKS[configuration]
    settings = Settings(CLASSES, Preprocessing(spacing, (0, 1, 2), CT), patch, PostProcessing(), mirror=True)
    axes, stages = len(patch), len(features)
    strides = ((1,) * axes, *[(2,) * axes] * (stages - 1))
    torch.manual_seed(0)
    model: Any = DynUNet(DynUNetConfig(1, 3, features, ((3,) * axes,) * stages, strides))
    if source and axes == 2:
        found = loaded(Path(source))
        model, own = found.model, Settings.from_mapping(found.settings)
        settings = replace(own, mirror=True, postprocessing=PostProcessing())
    statement = {"settings": settings.to_mapping(), "card": "", "provenance": {}}
    save_bundle(folder / configuration, model, domain="medical", name="dynunet", **statement)
    return folder / configuration


def loaded(bundle: Path) -> Any:
    """Return a bundle of the medical package."""
    return load_bundle(bundle, "medical", {name: cls for name, (_, cls) in MODELS.items()})


def plans(settings: Settings) -> dict[str, Any]:
    """Return the settings as the plans file that nnU-Net reads."""
    by = settings.preprocessing.normalisation.intensity
    assert by is not None, "a CT network"
    two = len(settings.patch_size) == 2
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    name = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(settings.patch_size),
        "spacing": list(settings.preprocessing.spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": name,
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": name,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": name,
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": two,
    }
    intensity = {"mean": by.mean, "std": by.std, "percentile_00_5": by.low, "percentile_99_5": by.high}
    return {
        "dataset_name": "benchmark",
        "plans_name": "plans",
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"c": configuration},
        "foreground_intensity_properties_per_channel": {"0": intensity},
        "label_manager": "LabelManager",
    }


def peer(bundle: Path) -> Any:
    """Return nnU-Net's predictor around the bundle's network."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    found = loaded(bundle)
    settings = Settings.from_mapping(found.settings)
    manager = PlansManager(plans(settings))
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    labels = {"background": 0, **CLASSES}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii", "numTraining": 1}
    axes = tuple(range(len(settings.patch_size)))
    weights = [found.model.state_dict()]
    configuration = manager.get_configuration("c")
    network = torch_layers(found.model)
    predictor.manual_initialization(network, manager, configuration, weights, dataset, "trainer", axes)
    return predictor


def torch_layers(network: torch.nn.Module) -> torch.nn.Module:
    """Make torch's own convolutions and norms, which nnU-Net's networks have, of ours, and return the network."""
    nn = torch.nn
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    for module in network.modules():
        if isinstance(module, kinds):  # ours differ in how they compute, not in what they hold
            module.__class__ = next(kind for kind in kinds if isinstance(module, kind))
    ours = [kind for kind in {type(module) for module in network.modules()} if kind.__module__.endswith("convolution")]
    assert not ours, f"nnU-Net would run {ours}"
    return network.eval()


def predict_files(way: str, scans: Path, out: Path, bundle: Path) -> None:
    """Let nnU-Net turn image files into label files."""
    predictor = peer(bundle)
    files, targets = [[str(path)] for path in scans.glob("*.nii")], [str(out / "scan")]
    out.mkdir(parents=True)
    if way == "nnunet parallel":
        predictor.predict_from_files(files, targets)
    else:
        predictor.predict_from_files_sequential(files, targets)


def predict_windows(variant: str, scan: Path, out: Path, bundle: Path) -> None:
    """Preprocess a scan, then measure from there to logits, which are written; print what it took."""
    settings = Settings.from_mapping((found := loaded(bundle)).settings)
    upright, _ = canonical(read_nifti(scan))
    image, _, _ = preprocess(upright.array, upright.spacing, settings.preprocessing)
    data, predictor = torch.from_numpy(image), peer(bundle) if variant == "nnunet" else None
    Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
    before, began, spent = resident("RssAnon"), time.perf_counter(), time.process_time()
    if predictor:
        logits = predictor.predict_logits_from_preprocessed_data(data[None]).float().numpy()
    else:
        # As the label map is made: slab by slab. Copied to the disk's pages, which count as files, not as memory.
        shape = (len(CLASSES) + 1, *image.shape)
        logits, first = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=shape), 0
        for slab in predict_logits(found.model, settings, data):
            logits[:, first : first + slab.shape[1]] = slab
            first += slab.shape[1]
    seconds, used = time.perf_counter() - began, time.process_time() - spent
    peak = resident("VmHWM") - resident("RssFile") - before
    if predictor:
        np.save(out, logits)
    print(json.dumps({"seconds": seconds, "cpu_seconds": used, "extra_mb": peak}))


def resident(field: str) -> float:
    """Return a size of this process from /proc in MB."""
    return stated(field, Path("/proc/self/status").read_text())


def stated(field: str, status: str) -> float:
    """Return a size that a process's status states, in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else float("nan")


def studies(bundle: Path, scans: Path, folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a variant of files to files: best seconds, its peak memory, agreement of labels with ours."""
    around = environment(given)
    rows: dict[str, dict[str, Any]] = {name: {"variant": name, "seconds": float("inf")} for name in STUDIES}
    for turn in range(given.repeats):
        for name in STUDIES:
            out = folder / f"{bundle.name} {name} {turn}"
            if name == "pentad":
                call = ["-m", "pentad.core", "medical", "predict", str(scans), "-o", str(out), "--model", str(bundle)]
                call += ["--outputs", "nifti", "--device", "cpu", "--run", "r", "--quiet"]
            else:
                call = [__file__, "--inner", name, str(scans), str(out), str(bundle)]
            done = run([sys.executable, *call], environment=around)
            if done.code:
                raise SystemExit(f"{name} failed\n{done.output}")
            if done.seconds < rows[name]["seconds"]:
                rows[name] |= {"seconds": round(done.seconds, 2), "cpu_seconds": round(done.cpu_seconds, 2)}
                rows[name] |= {"peak_mb": round(done.peak_mb), "out": str(out)}
    ours, *others = (read_label(next(Path(row.pop("out")).rglob("*.nii*"))).array for row in rows.values())
    for name, theirs in zip(STUDIES[1:], others, strict=True):
        rows[name]["labels_equal"] = round(float((ours == theirs).mean()), 6)
    return list(rows.values())


def windows(bundle: Path, scan: Path, folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a variant of preprocessed array to logits: best seconds, extra memory, distance of logits."""
    around = environment(given)
    rows: dict[str, dict[str, Any]] = {name: {"variant": name, "seconds": float("inf")} for name in WINDOWS}
    for _ in range(given.repeats):
        for name in WINDOWS:
            call = [sys.executable, __file__, "--inner", name, str(scan), str(folder / f"{name}.npy"), str(bundle)]
            done = run(call, environment=around)
            if done.code:
                raise SystemExit(f"{name} failed\n{done.output}")
            found = json.loads(done.output.splitlines()[-1])
            if found["seconds"] < rows[name]["seconds"]:
                rows[name] |= {key: round(value, 2) for key, value in found.items()}
    ours, theirs = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in WINDOWS)
    rows["nnunet"]["largest_difference"] = round(float(np.abs(ours - theirs).max()), 5)
    rows["nnunet"]["spread_of_logits"] = round(float(ours.std()), 5)
    rows["nnunet"]["labels_equal"] = round(float((ours.argmax(0) == theirs.argmax(0)).mean()), 6)
    return list(rows.values())


def imports(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a library: memory of a process that has imported it and done nothing."""
    rows = []
    for name, modules in IMPORTS.items():
        code = f"import {modules}\nprint(open('/proc/self/status').read())"
        done = run([sys.executable, "-c", code], environment=environment(given))
        if done.code:
            raise SystemExit(f"{name} cannot be imported\n{done.output}")
        rows.append({"variant": name, "mb": round(stated("VmRSS", done.output))})
    return rows


def environment(given: argparse.Namespace) -> dict[str, str]:
    """Return the environment in which nnU-Net is found and says nothing of its folders, with the threads of each."""
    named = {f"nnUNet_{name}": tempfile.gettempdir() for name in ("raw", "preprocessed", "results")}
    path = os.pathsep.join(filter(None, (given.peers, os.environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": str(given.threads), **named}


def whole_scan(given: str) -> Volume:
    """Return the scan that is given, or a synthetic one of a usual size, as whole CT numbers with axes (z, y, x)."""
    if not given:
        width = FIELD_MM / PIXELS
        return Volume(enlarged(SLICES, PIXELS), np.diag([width, width, SLICE_MM, 1.0]))
    from pentad.medical.ingest import load_scan

    volume = load_scan(Case(id="scan", files={"source" if Path(given).is_dir() else "image": given})).volume
    upright, _ = canonical(volume)
    return replace(upright, array=np.rint(upright.array).astype(np.int16))


def middle(scan: Volume, size: Sequence[int]) -> Volume:
    """Return the middle of a scan, at most ``size`` voxels (z, y, x), which nothing here asks the place of."""
    starts = [max(0, (length - wanted) // 2) for length, wanted in zip(scan.array.shape, size, strict=True)]
    z, y, x = (slice(start, start + wanted) for start, wanted in zip(starts, size, strict=True))
    return replace(scan, array=np.ascontiguousarray(scan.array[z, y, x]))


def written_scans(scan: Volume, configuration: str, folder: Path) -> list[Path]:
    """Write what a configuration is measured on, the smallest last, each as the one file of a folder."""
    slices, *plane = scan.array.shape
    sizes = [(slices, *plane)] if configuration != "3d-wide" else []
    if slices > MIDDLE_SLICES or not sizes:
        sizes.append((MIDDLE_SLICES, *(plane if sizes else [CROP_PIXELS, CROP_PIXELS])))
    files = []
    for size in sizes:
        file = folder / f"{configuration} {size[0]}" / "scan.nii"
        file.parent.mkdir()
        write_nifti(file, middle(scan, size))
        files.append(file)
    return files


def table(title: str, rows: Sequence[dict[str, Any]], memory: str) -> str:
    """Return one comparison as Markdown."""
    unit = "peak, MB" if memory == "peak_mb" else "peak beyond the model, MB"
    head = (
        f"| | seconds | times pentad's | processor seconds | times pentad's | {unit} | pentad's share | labels equal |"
    )
    lines, ours = [f"{title}\n", head, "|---" * 8 + "|"], rows[0]
    for row in rows:
        cells = [row["variant"].replace("nnunet", "nnU-Net")]
        for name in ("seconds", "cpu_seconds"):
            cells += [f"{row[name]:.1f}", f"{row[name] / ours[name]:.2f}"]
        cells += [f"{row[memory]:.0f}", f"{ours[memory] / row[memory]:.2f}"]
        cells.append(f"{row['labels_equal']:.4%}" if "labels_equal" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(result: dict[str, Any]) -> str:
    """Return all tables of a result."""
    parts = []
    for name, found in result.items():
        if "imports" in found:
            lines = [f"| {row['variant'].replace('nnunet', 'nnU-Net')} | {row['mb']} |" for row in found["imports"]]
            parts.append("\n".join(["| imported, nothing done | MB |", "|---|---|", *lines]) + "\n")
            continue
        size = " x ".join(map(str, found["voxels"]))
        where = f"{found['data']}, {size} voxels, {found['weights']} weights, threads: {found['threads']}, "
        where += f"{found['processor']}, {found['cores']} cores, torch {found['torch']}"
        if "studies" in found:
            parts.append(table(f"**{name}, files to files**: {where}", found["studies"], "peak_mb"))
        if "windows" in found:
            parts.append(table(f"**{name}, preprocessed array to logits**: {where}", found["windows"], "extra_mb"))
    return "\n".join(parts)


def processor() -> str:
    """Return the processor's name."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1).strip() if found else "unknown processor"


def main() -> None:
    """Measure, print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", default="", help="a synthetic one by default")
    parser.add_argument("--peers", default="", help="folder with nnunetv2 and what it needs")
    parser.add_argument("--bundle", default="", help="2-D bundle whose weights and settings are taken")
    parser.add_argument("--configurations", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of every process")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--inner", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inner:
        variant, scan, out, bundle = given.inner
        inner = predict_files if Path(scan).is_dir() else predict_windows
        inner(variant, Path(scan), Path(out), Path(bundle))
        return
    measure(given)


def measure(given: argparse.Namespace) -> None:
    """Measure what is asked for; figures and tables are kept after every scan."""
    result = json.loads(given.out.read_text()) if given.out.is_file() else {}
    anew = {*given.configurations, *({"imports"} & set(given.parts))}
    result = {name: found for name, found in result.items() if name.partition(",")[0] not in anew}
    machine = {"threads": given.threads, "processor": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    scan = whole_scan(given.scan)
    data = "CT" if given.scan else "synthetic CT"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for configuration in given.configurations:
            bundle = network(configuration, given.bundle, folder)
            weights = "trained" if given.bundle and configuration == "2d" else "random"
            files = written_scans(scan, configuration, folder)
            for file in files:
                size = read_nifti(file).array.shape
                about: dict[str, Any] = {"data": data, "voxels": size, "weights": weights, **machine}
                if "studies" in given.parts and configuration != "3d-wide":
                    about["studies"] = studies(bundle, file.parent, folder / f"of {len(result)}", given)
                if "windows" in given.parts and file == files[-1]:
                    about["windows"] = windows(bundle, file, folder, given)
                name = f"{configuration}, {size[0]} slices"
                result[name] = about
                keep(given.out, result)
                print(written({name: about}), flush=True)
    if "imports" in given.parts:
        result["imports"] = {**machine, "imports": imports(given)}
        keep(given.out, result)


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write figures and tables."""
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(written(result))


if __name__ == "__main__":
    main()
