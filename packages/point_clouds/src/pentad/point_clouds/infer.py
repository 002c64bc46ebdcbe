"""Stage predict: sweeps in; KITTI text, nuScenes JSON, coloured clouds, a page for each and a worklist out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from pentad.core.batch import BatchOptions, CaseResult, dry_run, run_batch
from pentad.core.bundle import check_bundle, read_manifest
from pentad.core.cases import Case, Rejection, input_digest, read_cases
from pentad.core.config import to_mapping
from pentad.core.errors import CaseError, ModelError, UsageError, nearest
from pentad.core.files import digest_json, write_json
from pentad.core.run import code_version, provenance
from pentad.point_clouds.frames import frame_of, role_of
from pentad.point_clouds.layouts import FoundFrame, find_frames, named_apart
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.outputs import write_cloud, write_frame_page, write_kitti, write_nuscenes
from pentad.point_clouds.predict import Limits, Predictor, load_predictor

OUTPUTS = ("kitti", "nuscenes", "ply", "page")
_FLAGS = {"dropped": "points_without_place", "big-endian": "big_endian", "map coordinates": "map_coordinates"}


@dataclass(frozen=True)
class PredictRequest:
    """What to look at, and with what.

    Attributes:
        inputs: Folders of sweeps in any known layout, single files, or one case table (.jsonl).
        model: Bundle folder or hub id.
        split: Only this split of a case table.
        outputs: Comma-separated: kitti, nuscenes, ply, page.
        limits: Range, number of points and of sweeps, where they differ from the model's own.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network for a model.
    """

    inputs: tuple[Path, ...]
    model: str
    split: str = ""
    outputs: str = ",".join(OUTPUTS)
    limits: Limits = field(default_factory=Limits)
    device: str = "auto"
    offline: bool = False

    def wanted(self) -> tuple[str, ...]:
        """Return the outputs asked for.

        Raises:
            UsageError: One is not known (PTD-929).
        """
        asked = tuple(part for part in self.outputs.split(",") if part)
        for name in asked:
            if name not in OUTPUTS:
                problem = f"'{name}' is no output{nearest(name, OUTPUTS)}"
                raise UsageError("PTD-929", problem, f"give any of {', '.join(OUTPUTS)} to --outputs")
        return asked


def parse_span(text: str) -> tuple[float, ...]:
    """Return six numbers of ``x,y,z,x,y,z``; none of an empty text (PTD-923)."""
    try:
        span = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        span = (0.0,)
    return Limits(span=span).span


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Find the objects of every frame and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle.
    """
    config = digest_json([list(request.wanted()), to_mapping(request.limits)])
    code = code_version("point_clouds")["source"]
    identity = {"model": _model_digest(request.model), "config": config, "code": code}
    cases, rejections = _cases(request)
    if only_say:
        if Path(request.model).exists():
            check_bundle(request.model, "point_clouds", MODELS)
        return dry_run(cases, options, identity, rejections)
    return run_batch(cases, partial(_processor, request, config), options, identity, rejections)


def _model_digest(model: str) -> str:
    """The digest of a bundle, read without loading weights; a hub id stands for itself."""
    if Path(model).exists():
        return str(read_manifest(Path(model)).get("digest", ""))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise ModelError("PTD-930", "no such bundle", "give a bundle's folder or OWNER/NAME", model)
    return digest_json([model, code_version("point_clouds")])


def _cases(request: PredictRequest) -> tuple[list[Case], list[Rejection]]:
    """The frames to look at, without labels: a prediction neither needs them nor must change with them."""
    cases: list[Case] = []
    rejections: list[Rejection] = []
    if [path.suffix for path in request.inputs] == [".jsonl"]:
        table = request.inputs[0]
        found = [
            FoundFrame(case.id, case.id, partial(frame_of, case), dict(case.files))
            for case in read_cases(table, request.split)
        ]
    else:
        missing = [path for path in request.inputs if not path.exists()]
        if missing:
            raise UsageError("PTD-931", "no such file or folder", "correct the path", missing[0])
        found = [frame for path in request.inputs for frame in find_frames(path, labelled=False)]
    for entry in named_apart(found):
        try:
            cases.append(_case(entry))
        except CaseError as error:
            reason = str(error).removeprefix(f"{error.code} ")
            rejections.append(Rejection(where=entry.where, code=error.code, reason=reason))
    return cases, rejections


def _case(found: FoundFrame) -> Case:
    frame = found.read()
    sweeps = tuple(sweep.model_copy(update={"file": role_of(number)}) for number, sweep in enumerate(frame.sweeps))
    bare = frame.model_copy(update={"id": found.id, "sweeps": sweeps, "boxes": None})
    stated: dict[str, JsonValue] = bare.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    files = {role_of(number): sweep.file for number, sweep in enumerate(frame.sweeps)}
    if "calib" in found.files:
        files["calib"] = found.files["calib"]
    return Case(id=found.id, files=files, target={"frame": stated})


def _processor(request: PredictRequest, config: str) -> Callable[[Case, Path], CaseResult]:
    """Load the model, once in each worker, and return what looks at one frame."""
    predictor = load_predictor(request.model, request.device, offline=request.offline, limits=request.limits)
    return partial(_find, predictor, request.wanted(), config)


def _find(predictor: Predictor, outputs: Sequence[str], config: str, case: Case, folder: Path) -> CaseResult:
    frame = frame_of(case)
    found = predictor.detect(frame)
    began = time.perf_counter()
    statement = provenance("point_clouds", model=predictor.digest, config=config, input=input_digest(case))
    classes, objects = predictor.settings.classes, found.objects
    if "kitti" in outputs:
        write_kitti(folder, objects, case.files.get("calib", ""))
    if "nuscenes" in outputs:
        write_nuscenes(folder, frame, objects)
    if "ply" in outputs:
        write_cloud(folder, found.points, objects, classes)
    if "page" in outputs:
        write_frame_page(folder, frame, found, classes, predictor.span, statement)
    counts = {kind: objects.classes.count(kind) for kind in classes}
    summary = {"objects": counts, "points": len(found.points), "notes": list(found.notes), "provenance": statement}
    write_json(folder / "summary.json", summary)
    row: dict[str, str | float | int] = {"objects": len(objects), **counts, "points": len(found.points)}
    row |= {f"{stage}_ms": round(1000 * seconds, 2) for stage, seconds in found.seconds.items()}
    row["write_ms"] = round(1000 * (time.perf_counter() - began), 2)
    return CaseResult(row, _flags(found.notes, len(objects)))


def _flags(notes: Sequence[str], objects: int) -> list[str]:
    flags = [flag for word, flag in _FLAGS.items() if any(word in note for note in notes)]
    return flags if objects else [*flags, "no_object"]
