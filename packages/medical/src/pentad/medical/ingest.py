"""Raw folders turned into cases: scans to segment, and checked image/label pairs to learn from."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pentad.core.cases import Case, Rejection, assign_splits, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.core.statement import Statement, raw_statement
from pentad.medical.dicom import FileRejection, Series, index_files, read_series, walk
from pentad.medical.layouts import LAYOUTS, Pair, find_pairs, is_nifti, unique_ids
from pentad.medical.privacy import hide_patients, load_key, pseudonym
from pentad.medical.selection import SelectionRules, choose
from pentad.medical.volumes import (
    Volume,
    as_labels,
    canonical,
    check_hounsfield,
    check_same_grid,
    grid_distance,
    read_grid,
    read_label,
    read_nifti,
    write_nifti,
)

log = logging.getLogger(__name__)

HARMLESS = frozenset(f"PTD-{number}" for number in range(320, 330))
"""Codes of rejections that belong to a normal input: documents, DICOMDIR, reports, localizers, copies, other series."""

# Other modalities, derived maps and single images: no fault where the study has a scan, a refusal where not.
_BESIDE_A_SCAN = {"PTD-331": "PTD-326", "PTD-332": "PTD-327", "PTD-334": "PTD-328"}
_SLICE = "slice_"
_LABEL = re.compile(
    r"(^|/)labels?(Tr|Ts)?/|(^|/)segmentation[^/]*$|[_-](label|seg|mask|segmentation)\.nii(\.gz)?$", re.IGNORECASE
)


@dataclass(frozen=True)
class Scan:
    """A scan in memory.

    Attributes:
        volume: HU (z, y, x) on the input's own grid.
        series: The DICOM series it came from; None for NIfTI.
    """

    volume: Volume
    series: Series | None = None


def harmless(rejection: Rejection) -> bool:
    """Whether the rejection concerns what any normal input holds beside its scans."""
    return rejection.code in HARMLESS


def find_cases(
    inputs: Path | Sequence[Path],
    rules: SelectionRules | None = None,
    key_file: Path | None = None,
    *,
    hide: bool = False,
) -> tuple[list[Case], list[Rejection]]:
    """Return a case for every DICOM study and NIfTI image below the inputs, and a rejection for all else.

    A study's id is its pseudonym, and its files are the slices of the chosen series (roles ``slice_0001`` …); a NIfTI
    image's id is its file's name and its only role ``image``. Only headers are read. Places in rejections are relative
    to the input, behind the input's own name where several are given.

    Args:
        inputs: Folders or files.
        rules: Which series of a study is taken.
        key_file: Key of the pseudonyms, made where there is none; the user's own by default.
        hide: Put pseudonyms for the names, numbers, dates and UIDs of patients that stand in the names of files: what
            is written to a run's folder needs it, what is shown once on a screen is clearer without.

    Raises:
        UsageError: An input does not exist (PTD-412), or the key cannot be used (PTD-417, 418).
    """
    roots = [inputs] if isinstance(inputs, Path) else list(inputs)
    files: dict[Path, str] = {}
    rejections: list[Rejection] = []
    for root in roots:
        if not root.exists():
            raise UsageError("PTD-412", "there is nothing here", "correct the path of the input", root)
        prefix = f"{root.resolve().name}/" if len(roots) > 1 and root.is_dir() else ""
        found, unreadable = walk(root)
        files |= {path: prefix + name for path, name in found.items()}
        rejections += unreadable
    # NIfTI goes by its name: its headers have no mark in the first bytes that DICOM files lack.
    images = {path: name for path, name in files.items() if is_nifti(path)}
    identifiers: set[str] = set()
    series, more = index_files({path: name for path, name in files.items() if path not in images}, identifiers)
    # Inputs without DICOM need no pseudonyms, so no key is made for them.
    key = load_key(key_file) if series or identifiers else b""
    studies, rest = _studies(series, more, rules or SelectionRules(), key)
    scans, bad = _nifti_cases(images)
    told = sorted([*rejections, *rest, *bad], key=lambda item: (item.where, item.code))
    if hide and key:
        told = hide_patients(told, {item.name for item in series}, identifiers, key)
    return [*studies, *scans], told


def _studies(
    series: Sequence[Series], rejections: Sequence[Rejection], rules: SelectionRules, key: bytes
) -> tuple[list[Case], list[Rejection]]:
    grouped: dict[str, list[Series]] = {}
    for item in series:
        grouped.setdefault(item.study_uid, []).append(item)
    cases, done, kept = [], set(), list(rejections)
    for study, members in grouped.items():
        chosen, others = choose(members, rules)
        kept += others
        if chosen:
            files = {f"{_SLICE}{place:04d}": str(path.resolve()) for place, path in enumerate(chosen.files, 1)}
            cases.append(Case(id=pseudonym(study, key), files=files))
            done.add(study)
    return sorted(cases, key=lambda case: case.id), [_beside(item, done) for item in kept]


def _beside(rejection: Rejection, done: set[str]) -> Rejection:
    """The rejection with a harmless code where its study has a scan, so that a PET or a report next to it is none."""
    code = _BESIDE_A_SCAN.get(rejection.code)
    if code and isinstance(rejection, FileRejection) and rejection.study in done:
        return rejection.model_copy(update={"code": code})
    return rejection


def _nifti_cases(images: Mapping[Path, str]) -> tuple[list[Case], list[Rejection]]:
    cases, rejections = [], []
    names = unique_ids(images)
    for path, name in images.items():
        try:
            if path.name.startswith("."):
                raise CaseError("PTD-320", "a hidden file", "nothing to do", name)
            if _LABEL.search(name):
                raise CaseError("PTD-329", "a label by its name or place, no scan", "nothing to do", name)
            read_grid(path)
            cases.append(Case(id=names[path], files={"image": str(path.resolve())}))
        except CaseError as error:
            rejections.append(refusal(error, name))
    return cases, rejections


def refusal(error: CaseError, name: str, files: Sequence[str] = ()) -> Rejection:
    """Return the error as a rejection of the named file."""
    reason = f"{error.problem}; {error.remedy}."
    return FileRejection(where=name, code=error.code, reason=reason, files=tuple(files) or (name,))


def load_scan(case: Case, rules: SelectionRules | None = None) -> Scan:
    """Return the scan of a case: of its slices, of the study folder or image in ``source``, or of ``image``.

    Raises:
        CaseError: It is no usable CT volume.
    """
    # By their role, as in the case's record: the names that hospitals give to files often tell the patient.
    slices = {Path(path): role for role, path in case.files.items() if role.startswith(_SLICE)}
    source = Path(case.files.get("source", case.files.get("image", "")))
    if not slices and source.is_dir():
        slices, _ = walk(source)
    if slices:
        found, rejections = index_files(slices)
        chosen, others = choose(found, rules or SelectionRules())
        if chosen is None:
            raise _no_series([*others, *rejections])
        return Scan(read_series(chosen), chosen)
    volume = read_nifti(source)
    check_hounsfield(volume.array, source.name)
    return Scan(Volume(volume.array.astype(np.float32), volume.affine))


def _no_series(rejections: Sequence[Rejection], where: str = "") -> CaseError:
    """The first weighty reason why a study has no usable series."""
    first = next((item for item in rejections if not harmless(item)), None)
    if first is None:
        return CaseError("PTD-349", "there is no CT series", "add the study's images", where or None)
    problem, _, remedy = first.reason.removesuffix(".").rpartition("; ")
    return CaseError(first.code, problem, remedy, where or first.where)


class PrepareConfig(BaseModel):
    """Settings of the prepare stage.

    Attributes:
        layout: How the raw folder is laid out; ``auto`` recognises it.
        split: Share of each split; groups (patients) stay together.
        seed: Seed of the split.
        classes: Name and value of every class of the prepared labels.
        label_values: Value in the raw labels to class value, where they differ; unnamed values stay.
        select: Which series of a DICOM study may be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: str = "auto"
    split: dict[str, float] = Field(default_factory=lambda: {"train": 0.64, "val": 0.11, "test": 0.25})
    seed: int = 1
    classes: dict[str, int] = Field(default_factory=lambda: {"liver": 1, "lesion": 2})
    label_values: dict[int, int] = Field(default_factory=dict)
    select: SelectionRules = Field(default_factory=SelectionRules)


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did; its text is for people.

    Attributes:
        text: A line of counts, and a line for everything refused.
        cases: Cases prepared.
        refused: Things that look like cases and are none; documents and the like do not count.
    """

    text: str
    cases: int
    refused: int

    def __str__(self) -> str:
        return self.text


@dataclass
class _Prepared:
    """What became of the raw folder so far."""

    cases: list[Case] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    patients: dict[str, str] = field(default_factory=dict)


def prepare(
    raw: Path, out: Path, config: PrepareConfig, *, dry_run: bool = False, overwrite: bool = False
) -> Preparation:
    """Check every image and label below ``raw``, write them in one form, and return what became of them.

    Writes ``cases.jsonl``, ``rejected.jsonl``, ``dataset.json`` (name, whether synthetic, licence),
    ``images/<id>.nii`` (HU, int16) and ``labels/<id>.nii`` (uint8), all in canonical orientation; the folder is there
    whole or not at all. Equal input gives equal bytes.

    Args:
        raw: Folder in one of the layouts of `pentad.medical.layouts`.
        out: Folder to write.
        config: Settings.
        dry_run: Check all, write nothing.
        overwrite: Replace ``out`` if it is there.

    Raises:
        UsageError: ``raw`` is missing (PTD-412), the layout is unknown (PTD-413), ``out`` is there (PTD-414) or cannot
            be written (PTD-415).
        NoInputError: There is no usable pair (PTD-410).
    """
    if not raw.is_dir():
        raise UsageError("PTD-412", "there is no such folder", "correct the path of the raw data", raw)
    if config.layout not in ("auto", *LAYOUTS):
        problem = f"'{config.layout}' is no layout"
        raise UsageError("PTD-413", problem, f"choose auto, {', '.join(LAYOUTS)}", "layout")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (overwrite or dry_run):
        raise UsageError("PTD-414", "there is something already", "choose another folder or give --overwrite", out)
    # A sibling folder has the same depth, so relative paths in the table hold after the rename.
    partial = None if dry_run else out.with_name(f".part-{out.name}")
    try:
        done = _prepare(raw, partial, config)
        if partial and done.cases:
            raw_statement(raw, Statement).save(partial)
            _finish(partial, out, done)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or type(error).__name__})"
        raise UsageError("PTD-415", problem, "choose a folder with room that you may write to", out) from None
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
    for item in done.rejections:
        # Where cases were prepared, the returned text says all this, once.
        level = logging.INFO if done.cases or harmless(item) else logging.WARNING
        log.log(level, "%s: %s %s", item.where, item.code, item.reason)
    if not done.cases:
        problem = f"none of {len(done.rejections)} things found is an image with a label"
        raise NoInputError("PTD-410", problem, "see the reasons above, or name another folder", raw)
    return _summary(done, dry_run)


def _finish(partial: Path, out: Path, done: _Prepared) -> None:
    write_cases(partial / "cases.jsonl", done.cases)
    write_rejections(partial / "rejected.jsonl", done.rejections)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def _summary(done: _Prepared, dry_run: bool) -> Preparation:
    counts = Counter(case.split for case in done.cases)
    splits = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    refused = [item for item in done.rejections if not harmless(item)]
    verb = "would prepare" if dry_run else "prepared"
    lines = [f"{verb} {len(done.cases)} cases ({splits}); {len(refused)} refused, "]
    lines[0] += f"{len(done.rejections) - len(refused)} left aside"
    lines += [f"refused {item.where}: {item.code} {item.reason}" for item in refused]
    if dry_run:
        aside = (item for item in done.rejections if harmless(item))
        lines += [f"left aside {item.where}: {item.code} {item.reason}" for item in aside]
    return Preparation("\n".join(lines), len(done.cases), len(refused))


def _prepare(raw: Path, partial: Path | None, config: PrepareConfig) -> _Prepared:
    pairs, rejections = find_pairs(raw, config.layout)
    done = _Prepared(rejections=rejections)
    for pair in pairs:
        if pair.study and pair.label is None:
            done.rejections += _unlabelled(pair)
            continue
        try:
            done.cases.append(_prepare_pair(pair, partial, config, done))
        except CaseError as error:
            done.rejections.append(refusal(error, pair.name, pair.names))
    done.rejections.sort(key=lambda item: (item.where, item.code))
    done.cases.sort(key=lambda case: case.id)
    done.cases = assign_splits([_grouped(case, done) for case in done.cases], config.split, config.seed)
    return done


def _unlabelled(pair: Pair) -> list[Rejection]:
    """Why the files of a study without a label are no case: also what cannot be read is told."""
    series, rejections = index_files(dict(zip(pair.files, pair.names, strict=True)))
    for item in series:
        try:
            read_series(item)
            raise CaseError("PTD-361", "it can be read but has no label", "add one in labels/", item.name)
        except CaseError as error:
            rejections.append(FileRejection.of(item.names, error.code, f"{error.problem}; {error.remedy}."))
    return rejections


def _grouped(case: Case, done: _Prepared) -> Case:
    """The case with its patient as group, named by the patient's first case: patient IDs stay in memory."""
    patient = done.patients.get(case.id, "")
    same = [name for name, other in done.patients.items() if patient and other == patient]
    return case.model_copy(update={"group": min(same)}) if same else case


def _prepare_pair(pair: Pair, partial: Path | None, config: PrepareConfig, done: _Prepared) -> Case:
    if pair.label is None:
        raise CaseError("PTD-361", "it has no label", "add one or remove the image", pair.name)
    label = read_label(pair.label)
    label = Volume(_classes(label.array, config, pair.label.name), label.affine)
    image = _labelled_series(pair, label, config, done) if pair.study else read_nifti(pair.image)
    check_same_grid(image, label, pair.name)
    check_hounsfield(image.array, pair.name)
    if partial:
        integers = np.clip(np.rint(image.array), -32768, 32767).astype(np.int16)
        upright, _ = canonical(Volume(integers, image.affine))
        write_nifti(partial / "images" / f"{pair.id}.nii", upright)
        # The image's affine: both are equal to a fraction of a voxel, and from here on they are one grid.
        write_nifti(partial / "labels" / f"{pair.id}.nii", canonical(Volume(label.array, image.affine))[0])
    files = {"image": f"images/{pair.id}.nii", "label": f"labels/{pair.id}.nii", "source": str(pair.image.resolve())}
    return Case(id=pair.id, files=files)


def _classes(array: NDArray[np.uint8], config: PrepareConfig, where: str) -> NDArray[np.uint8]:
    """Raw label values as classes; a value that is neither class nor background is refused."""
    table = np.arange(256, dtype=np.int64)
    for value, wanted in config.label_values.items():
        table[value] = wanted
    mapped = as_labels(table[array], where)
    known = {0, *config.classes.values()}
    unknown = sorted(set(np.unique(mapped).tolist()) - known)
    if unknown:
        problem = f"the label value {unknown[0]} is no class (known: {sorted(known)})"
        raise CaseError("PTD-355", problem, "correct the label or name the value in label_values", where)
    return mapped


def _labelled_series(pair: Pair, label: Volume, config: PrepareConfig, done: _Prepared) -> Volume:
    """The study's series whose grid the label has; the others are left aside."""
    files = {path: name for path, name in zip(pair.files, pair.names, strict=True) if path != pair.label}
    series, rejections = index_files(files)
    if not series:
        raise _no_series(rejections, pair.name)
    matching = [item for item in series if grid_distance(item.grid, label) <= 0.05 * min(item.spacing)]
    if not matching:
        shapes = ", ".join(" x ".join(map(str, item.shape)) for item in series)
        problem = f"the label ({' x '.join(map(str, label.array.shape))}) lies on none of its series ({shapes})"
        raise CaseError("PTD-363", problem, "give the label on the grid of one series", pair.name)
    chosen, others = choose(matching, config.select)
    if chosen is None:
        raise _no_series(others, pair.name)
    volume = read_series(chosen)
    # The label decides which reconstruction it belongs to; the rules only among several on one grid.
    beside = [
        FileRejection.of(item.names, "PTD-325", "not the series that is labelled; nothing to do.") for item in series
    ]
    done.rejections += [item for item, other in zip(beside, series, strict=True) if other is not chosen]
    done.rejections += [_beside(item, {chosen.study_uid}) for item in rejections]
    if chosen.patient:
        done.patients[pair.id] = chosen.patient
    return volume
