"""Stage predict: pairs in; maps, polygons, a page for each and a worklist out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pentad.core.batch import BatchOptions, CaseResult, dry_run, run_batch, tell_share
from pentad.core.bundle import read_manifest
from pentad.core.cases import Case, Rejection, input_digest, read_cases
from pentad.core.config import load_params, read_params, to_mapping
from pentad.core.errors import ModelError, UsageError
from pentad.core.files import digest_json, write_json
from pentad.core.run import code_version, provenance
from pentad.remote_sensing.differencing import NAME
from pentad.remote_sensing.evaluate import EvaluateConfig
from pentad.remote_sensing.layouts import find_pairs
from pentad.remote_sensing.legend import legends
from pentad.remote_sensing.maps import draw, write_maps
from pentad.remote_sensing.page import write_case_page
from pentad.remote_sensing.polygons import PolygonConfig, Source, write_polygons
from pentad.remote_sensing.predict import Predictor, baseline_digest, load_predictor
from pentad.remote_sensing.raster import open_pair
from pentad.remote_sensing.resume import drawn_strips, kept

PARTIAL = ".partial"
"""Folder below the output for strips of scenes that were interrupted."""


@dataclass(frozen=True)
class PredictRequest:
    """What to look for change in, and with what.

    Attributes:
        inputs: Two rasters, before and after; or one folder of pairs; or one case table (.jsonl).
        model: Bundle folder, or ``differencing``.
        split: Only this split of a case table.
        params: A params.yaml with the sections ``evaluate`` (threshold) and ``predict`` (polygons).
        warp: Warp the second date onto the first one's grid.
        unplaced: Accept rasters that do not say where they lie.
        device: auto, cpu, cuda or cuda:N.
    """

    inputs: tuple[Path, ...]
    model: str
    split: str = ""
    params: Path | None = None
    warp: bool = False
    unplaced: bool = False
    device: str = "auto"

    def settings(self) -> tuple[float, PolygonConfig]:
        """Return threshold and polygons' settings; the defaults without a file or a section."""
        known = read_params(self.params) if self.params else {}
        threshold = EvaluateConfig().threshold
        if self.params and "evaluate" in known:
            threshold = load_params(self.params, "evaluate", EvaluateConfig).threshold
        shown = load_params(self.params, "predict", PolygonConfig) if self.params and "predict" in known else None
        return threshold, shown or PolygonConfig()


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Find the change in every pair and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle.
    """
    identity = {"model": _model_digest(request.model), "config": _config_digest(request), "code": _code()}
    cases, rejections = _cases(request)
    if only_say:
        return dry_run(cases, options, identity, rejections)
    setup = partial(_processor, request, options.out.resolve() / PARTIAL, _code())
    return run_batch(cases, setup, options, identity, rejections)


def _code() -> str:
    return code_version("remote_sensing")["source"]


def _config_digest(request: PredictRequest) -> str:
    threshold, polygons = request.settings()
    return digest_json([threshold, to_mapping(polygons), request.warp, request.unplaced])


def _model_digest(model: str) -> str:
    if model == NAME:
        return baseline_digest()
    if not Path(model).exists():
        raise ModelError("PTD-873", "no such bundle", f"give a bundle's folder, or {NAME}", model)
    return str(read_manifest(Path(model))["digest"])


def _cases(request: PredictRequest) -> tuple[list[Case], list[Rejection]]:
    """The pairs to look at, without their labels: a prediction neither needs them nor must change with them."""
    inputs = request.inputs
    if len(inputs) == 1 and inputs[0].suffix == ".jsonl":
        cases = read_cases(inputs[0], request.split)
        kept = [{role: case.files[role] for role in ("before", "after") if role in case.files} for case in cases]
        return [case.model_copy(update={"files": files}) for case, files in zip(cases, kept, strict=True)], []
    if len(inputs) == 1 and inputs[0].is_dir():
        pairs, rejections = find_pairs(inputs[0])
        return [
            Case(
                id=pair.id,
                files={"before": os.path.realpath(pair.before), "after": os.path.realpath(pair.after)},
                target={"dates": list(pair.dates)} if all(pair.dates) else None,
            )
            for pair in pairs
        ], rejections
    if len(inputs) == 2:
        before, after = (os.path.realpath(path) for path in inputs)
        return [Case(id="pair", files={"before": before, "after": after})], []
    problem = f"{len(inputs)} inputs that are neither a pair, a folder of pairs nor a case table"
    raise UsageError("PTD-874", problem, "give two rasters, one folder, or cases.jsonl", inputs[0])


@dataclass(frozen=True)
class _Finder:
    """What finds the change in one pair, in a worker process."""

    predictor: Predictor
    threshold: float
    polygons: PolygonConfig
    config: str
    code: str
    partial: Path

    def __call__(self, case: Case, folder: Path) -> CaseResult:
        predictor, task = self.predictor, self.predictor.task
        statement = provenance("remote_sensing", model=predictor.digest, config=self.config, input=input_digest(case))
        dates = _dates(case)
        key = digest_json([predictor.digest, self.config, self.code, statement["input"]])[:32]
        tags = {
            "PENTAD_MODEL": predictor.digest,
            "PENTAD_CONFIG": self.config,
            "PENTAD_INPUT": str(statement["input"]),
        }
        known = legends(task, predictor.classes)
        with (
            open_pair(Path(case.files["before"]), Path(case.files["after"]), predictor.pair) as pair,
            kept(self.partial / key) as place,
        ):
            strips = drawn_strips(predictor.strips, pair, partial(draw, task, self.threshold), place, tell_share)
            counts = write_maps(folder, strips, pair, known, tags)
            source = Source(task.outlined, task.named, known[task.named])
            areas = write_polygons(folder, self.polygons, source, dates)
            valid = round(counts["valid_px"] / (pair.shape[0] * pair.shape[1]), 4)
            row: dict[str, str | float | int] = {**counts, "valid_share": valid, **areas}
            write_json(folder / "summary.json", {**row, "dates": list(dates), "provenance": statement})
            write_case_page(folder, case.id, pair, source, row, statement)
        return CaseResult(
            row, [] if any(counts[name] for name in counts if name != "valid_px") else [f"no_{task.mask}"]
        )


def _processor(request: PredictRequest, place: Path, code: str) -> Callable[[Case, Path], CaseResult]:
    """Load the model, once in each worker, and return what finds the change in one pair."""
    predictor = load_predictor(request.model, request.device)
    asked = replace(
        predictor.pair, warp=predictor.pair.warp or request.warp, unplaced=predictor.pair.unplaced or request.unplaced
    )
    threshold, polygons = request.settings()
    return _Finder(replace(predictor, pair=asked), threshold, polygons, _config_digest(request), code, place)


def _dates(case: Case) -> tuple[str, str]:
    stated: Sequence[object] = ()
    if isinstance(case.target, dict) and isinstance(case.target.get("dates"), list):
        stated = case.target["dates"]  # type: ignore[assignment]
    return (str(stated[0]), str(stated[1])) if len(stated) == 2 else ("", "")
