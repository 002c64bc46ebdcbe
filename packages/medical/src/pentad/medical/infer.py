"""Stage predict: studies in; label maps, DICOM SEG, volumes, a page for each and a worklist out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pentad.core.batch import BatchOptions, CaseRecord, CaseResult, Destination, dry_run, run_batch
from pentad.core.cases import Case, Rejection, input_digest, read_cases, write_rejections
from pentad.core.config import load_params
from pentad.core.errors import ModelError, UsageError, nearest
from pentad.core.files import digest_json, write_json
from pentad.core.run import code_version, provenance
from pentad.medical.ingest import PrepareConfig, find_cases, harmless, load_scan
from pentad.medical.predictors import BASELINES, Predictor, baseline_digest, load_predictor
from pentad.medical.selection import SelectionRules
from pentad.medical.volumes import Volume, canonical, write_nifti

OUTPUTS = ("nifti", "seg", "page")


@dataclass(frozen=True)
class PredictRequest:
    """What to segment, with what, and what to write.

    Attributes:
        inputs: Folders or files of DICOM or NIfTI, or one case table (.jsonl).
        model: Bundle folder, hub id, or the name of a baseline.
        split: Only this split of a case table.
        outputs: Comma-separated: nifti, seg, page.
        params: A params.yaml whose section ``prepare.select`` says which series of a study is taken.
        key_file: Key of the pseudonyms.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network for a model.
        send_to: Address of an archive that gets each case's DICOM objects; empty for none.
        credentials: File with what the archive asks for; else the environment's variables.
    """

    inputs: tuple[Path, ...]
    model: str
    split: str = ""
    outputs: str = ",".join(OUTPUTS)
    params: Path | None = None
    key_file: Path | None = None
    device: str = "auto"
    offline: bool = False
    send_to: str = ""
    credentials: Path | None = None

    def destination(self) -> Destination | None:
        """Return the archive that results go to, if any.

        Raises:
            UsageError: Nothing that an archive takes is written, or the archive cannot be used as it is given.
        """
        if not self.send_to:
            return None
        from pentad.medical.pacs import archive

        if not {"seg", "sr"} & set(self.wanted()):
            raise UsageError("PTD-583", "no DICOM object is asked for", "add seg to --outputs, or leave out --return")
        return archive(self.send_to, self.credentials)

    def wanted(self) -> tuple[str, ...]:
        """Return the outputs asked for.

        Raises:
            UsageError: One is not known.
        """
        asked = tuple(part for part in self.outputs.split(",") if part)
        for name in asked:
            if name not in OUTPUTS:
                problem = f"'{name}' is no output{nearest(name, OUTPUTS)}"
                raise UsageError("PTD-297", problem, f"give any of {', '.join(OUTPUTS)} to --outputs")
        return asked


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Segment every study below the inputs and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options, the archive or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle.
    """
    outputs, destination = request.wanted(), request.destination()
    rules = load_params(request.params, "prepare", PrepareConfig).select if request.params else SelectionRules()
    identity = {
        "model": _model_digest(request.model),
        "config": _config_digest(outputs, rules),
        "code": code_version()["source"],
    }
    # What stays on the screen may name the files as they are; what is kept may not name the patient.
    cases, rejections = _cases(request, rules, hide=not only_say)
    refused = [item for item in rejections if not harmless(item)]
    if only_say:
        return dry_run(cases, options, identity, rejections)
    setup = partial(_processor, request, outputs, rules)
    finish = partial(_write_left_aside, [item for item in rejections if harmless(item)])
    return run_batch(cases, setup, options, identity, refused, finish, destination)


def _config_digest(outputs: Sequence[str], rules: SelectionRules) -> str:
    return digest_json({"outputs": list(outputs), "select": rules.model_dump(mode="json")})


def _model_digest(model: str) -> str:
    """The digest that `load_predictor` will find, read without loading weights.

    A model on the hub is known by its name alone until it is fetched: name a revision, OWNER/NAME@REVISION, where
    a resumed run must be of the same one.
    """
    if model in BASELINES:
        return baseline_digest()
    if Path(model).exists():
        from pentad.core.bundle import read_manifest

        return str(read_manifest(Path(model)).get("digest", ""))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        problem = f"no such bundle{nearest(model, BASELINES)}"
        raise ModelError("PTD-520", problem, f"give a bundle's folder, OWNER/NAME or {', '.join(BASELINES)}", model)
    return digest_json([model, code_version()])


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
    return partial(_segment, load_predictor(request.model, request.device, offline=request.offline), outputs, rules)


def _segment(
    predictor: Predictor, outputs: Sequence[str], rules: SelectionRules, case: Case, folder: Path
) -> CaseResult:
    from pentad.medical.page import volumes_ml, write_case_page
    from pentad.medical.seg import Algorithm, segments_for, write_seg

    scan = load_scan(case, rules)
    prediction = predictor.run(scan.volume)
    label = Volume(prediction.label, scan.volume.affine)
    statement = provenance(
        model=predictor.digest,
        config=_config_digest(outputs, rules),
        input=input_digest(case),
    )
    volumes = volumes_ml(label.array, label.spacing, predictor.classes)
    flags = [] if label.array.any() else ["empty"]
    if "nifti" in outputs:
        write_nifti(folder / "label.nii.gz", label)
    if "seg" in outputs and scan.series is not None:
        version = code_version()
        algorithm = Algorithm(predictor.name, version["pentad-medical"], predictor.digest, statement["config"])
        write_seg(folder / "seg.dcm", label.array, scan.series, segments_for(predictor.classes), algorithm)
    write_json(
        folder / "volumes.json",
        {"volumes": volumes, "classes": predictor.classes, "flags": flags, "provenance": statement},
    )
    if "page" in outputs:
        upright, labels = canonical(scan.volume)[0], canonical(label)[0]
        write_case_page(folder / "page.html", case.id, upright, labels.array, volumes, statement)
    return CaseResult({**volumes, "slices": label.array.shape[0]}, flags)


def _write_left_aside(items: Sequence[Rejection], folder: Path, records: Sequence[CaseRecord]) -> None:
    """Account for what any study holds beside its scan: localizers, reports, other reconstructions."""
    write_rejections(folder / "left_aside.jsonl", items)
