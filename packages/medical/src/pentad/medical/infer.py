"""Stage predict: studies in; label maps, DICOM SEG and SR, volumes, a page for each and a worklist out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pentad.core.batch import BatchOptions, CaseRecord, CaseResult, Destination, dry_run, run_batch
from pentad.core.cases import Case, Rejection, input_digest, read_cases, write_rejections
from pentad.core.config import load_params
from pentad.core.errors import ModelError, UsageError, nearest
from pentad.core.files import digest_json
from pentad.core.run import code_version, provenance
from pentad.medical.ingest import PrepareConfig, find_cases, harmless, load_scan
from pentad.medical.outputs import CARD, DEFAULT, USE, wanted
from pentad.medical.predictors import (
    BASELINES,
    Predictor,
    baseline_digest,
    check_predictor,
    joint_digest,
    load_predictor,
    sources_of,
)
from pentad.medical.selection import SelectionRules

NOTICE = f"Research use only: {USE}; labels were drawn by a model and checked by nobody."


@dataclass(frozen=True)
class PredictRequest:
    """What to segment, with what, and what to write.

    Attributes:
        inputs: Folders or files of DICOM or NIfTI, or one case table (.jsonl).
        model: Bundle folder, hub id, or the name of a baseline; several bundles, divided by commas, answer together.
        split: Only this split of a case table.
        outputs: Comma-separated names of `pentad.medical.outputs.FILES`.
        params: A params.yaml whose section ``prepare.select`` says which series of a study is taken.
        key_file: Key of the pseudonyms.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network for a model.
        mirror: Average over mirrored windows or not; None for what the bundle says.
        send_to: Address of an archive that gets each case's DICOM objects; empty for none.
        credentials: File with what the archive asks for; else the environment's variables.
    """

    inputs: tuple[Path, ...]
    model: str
    split: str = ""
    outputs: str = ",".join(DEFAULT)
    params: Path | None = None
    key_file: Path | None = None
    device: str = "auto"
    offline: bool = False
    mirror: bool | None = None
    send_to: str = ""
    credentials: Path | None = None

    def config(self, rules: SelectionRules) -> str:
        """Return the digest of what decides the labels beside model and input; outputs only decide what is written."""
        return digest_json({"select": rules.model_dump(mode="json"), "mirror": self.mirror})


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Segment every study below the inputs and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options, the archive or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle.
    """
    outputs = wanted(request.outputs)
    destination = _destination(request, outputs)
    rules = load_params(request.params, "prepare", PrepareConfig).select if request.params else SelectionRules()
    identity = {
        "model": _model_digest(request.model),
        "config": digest_json([request.config(rules), outputs]),
        "code": code_version("medical")["source"],
    }
    # What stays on the screen may name the files as they are; what is kept may not name the patient.
    cases, rejections = _cases(request, rules, hide=not only_say)
    refused = [item for item in rejections if not harmless(item)]
    aside = [item for item in rejections if harmless(item)]
    if only_say:
        check_predictor(request.model, offline=request.offline)
        return dry_run(cases, options, identity, refused, aside=aside)
    setup = partial(_processor, request, outputs, rules)
    finish = partial(_finish, request.model, aside)
    return run_batch(cases, setup, replace(options, notice=NOTICE), identity, refused, finish, destination)


def _destination(request: PredictRequest, outputs: Sequence[str]) -> Destination | None:
    if not request.send_to:
        return None
    from pentad.medical.pacs import archive

    if "seg" not in outputs:
        raise UsageError("PTD-583", "no DICOM object is asked for", "add seg to --outputs, or leave out --return")
    return archive(request.send_to, request.credentials)


def _model_digest(source: str) -> str:
    """The digest that `load_predictor` will find, read without loading weights."""
    return joint_digest([_one_digest(model) for model in sources_of(source)])


def _one_digest(model: str) -> str:
    """The digest of one model.

    A model on the hub is known by its name alone until it is fetched: name a revision, OWNER/NAME@REVISION, where
    a resumed run must be of the same one.
    """
    if model in BASELINES:
        return baseline_digest()
    if Path(model).exists():
        return _stated_digest(Path(model))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        problem = f"no such bundle{nearest(model, BASELINES)}"
        raise ModelError("PTD-520", problem, f"give a bundle's folder, OWNER/NAME or {', '.join(BASELINES)}", model)
    return digest_json([model, code_version("medical")])


def _stated_digest(folder: Path) -> str:
    """The digest in a bundle's manifest, read without torch: the process that hands out cases has no use for it."""
    try:
        manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        if manifest["format"] == "pentad-bundle/1":
            return str(manifest["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from pentad.core.bundle import read_manifest

    return str(read_manifest(folder)["digest"])  # it says what is wrong


def _cases(request: PredictRequest, rules: SelectionRules, *, hide: bool) -> tuple[list[Case], list[Rejection]]:
    if [path.suffix for path in request.inputs] != [".jsonl"]:
        return find_cases(request.inputs, rules, request.key_file, hide=hide)
    # Labels stay behind: a prediction neither needs them nor must change with them.
    cases = read_cases(request.inputs[0], request.split)
    kept = [{role: path for role, path in case.files.items() if role == "source"} or case.files for case in cases]
    return [Case(id=case.id, files=files, group=case.group) for case, files in zip(cases, kept, strict=True)], []


def _processor(
    request: PredictRequest, outputs: Sequence[str], rules: SelectionRules
) -> Callable[[Case, Path], CaseResult]:
    """Load the model, once in each worker, and return what segments one case."""
    predictor = load_predictor(request.model, request.device, offline=request.offline, mirror=request.mirror)
    return partial(_segment, predictor, outputs, rules, request.config(rules))


def _segment(
    predictor: Predictor, outputs: Sequence[str], rules: SelectionRules, config: str, case: Case, folder: Path
) -> CaseResult:
    # The process that hands out cases measures none: it is spared what the workers need.
    from pentad.medical.case_files import examine, row, write_files

    scan = load_scan(case, rules)
    prediction = predictor.run(scan.volume)
    statement = provenance("medical", model=predictor.digest, config=config, input=input_digest(case))
    result = examine(case.id, scan, prediction, predictor, statement)
    write_files(folder, result, predictor, outputs)
    return CaseResult(row(folder, result), list(result.quality.flags))


def _finish(model: str, left_aside: Sequence[Rejection], folder: Path, records: Sequence[CaseRecord]) -> None:
    """Account for what any study holds beside its scan, localizers or reports, and say what the model is."""
    from pentad.medical.model_card import write_model_card

    write_rejections(folder / "left_aside.jsonl", left_aside)
    if any(record.status == "ok" for record in records):
        write_model_card(folder / CARD, model)
