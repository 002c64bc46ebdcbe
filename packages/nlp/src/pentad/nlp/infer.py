"""Stage predict: files of texts in; spans and calibrated scores, pages, a worklist and a review queue out."""

from __future__ import annotations

import csv
import heapq
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pentad.core.batch import BatchOptions, CaseRecord, CaseResult, dry_run, run_batch
from pentad.core.batch.worklist import harmless
from pentad.core.bundle import peek_manifest, read_manifest
from pentad.core.cases import Case, Rejection, input_digest, read_cases
from pentad.core.errors import CaseError, ModelError, NoInputError, UsageError
from pentad.core.files import atomic, digest_json, write_text
from pentad.core.run import code_version, provenance
from pentad.nlp.documents import Document, from_case
from pentad.nlp.licences import check_commerce
from pentad.nlp.predict import Prediction
from pentad.nlp.predictors import Predictor, load_predictor
from pentad.nlp.streams import STDIN, StreamConfig, Unreadable, find_chunks, read_chunk, read_stream

REVIEW = "review.csv"
_MOST_TO_REVIEW = 10_000
_AT_A_TIME = 256  # documents in memory with their scores

_Unsure = tuple[float, str, str, str]  # minus uncertainty, case, document, label


@dataclass(frozen=True)
class PredictRequest:
    """What to read, with what.

    Attributes:
        inputs: Folders or files; or one case table of prepare, whose documents are read without their labels.
        model: Bundle folder or hub id.
        stream: How files are read.
        outputs: ``page``, or empty for predictions alone.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network for a model.
        split: Only this split of a case table.
        commercial_only: Refuse a bundle whose weights' or data's licence does not allow commercial use.
    """

    inputs: tuple[Path, ...]
    model: str
    stream: StreamConfig = field(default_factory=StreamConfig)
    outputs: str = "page"
    device: str = "auto"
    offline: bool = False
    split: str = ""
    commercial_only: bool = False


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Read every text below the inputs and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle, or its licence is not what was asked for.
    """
    if request.outputs not in ("", "page"):
        raise UsageError("PTD-803", f"'{request.outputs}' is no output", "give page or nothing to --outputs")
    _check_licences(request)
    config = digest_json({"stream": asdict(request.stream), "outputs": request.outputs})
    identity = {"model": _model_digest(request.model), "config": config, "code": code_version("nlp")["source"]}
    if [path.name for path in request.inputs] == ["cases.jsonl"]:
        cases, refused = _from_table(request)
    else:
        cases, refused = find_chunks(request.inputs, request.stream)
    if only_say:
        return dry_run(cases, options, identity, refused)
    return run_batch(cases, partial(_processor, request, config), options, identity, refused, _write_review)


def check_filter(inputs: Sequence[Path], out: Path, kind: str) -> bool:
    """Return whether standard input is to be answered on standard output.

    Raises:
        UsageError: One of both is, and the other is not.
    """
    streams = [path == Path("-") for path in inputs]
    if not any(streams) and out != Path("-") and not kind:
        return False
    if streams != [True] or out != Path("-"):
        problem = "standard input is read alone, with its format, and answered on standard output"
        raise UsageError("PTD-811", problem, "say - as the only input, -o - and --format, or none of them")
    return True


def answer(request: PredictRequest, kind: str, source: BinaryIO, sink: TextIO) -> int:
    """Answer a stream of documents, a line of JSON each as in predictions.jsonl, and return the exit code.

    Nothing is planned, kept or resumed: what is read is answered as soon as a piece of ``chunk_bytes`` is whole.

    Args:
        request: Model and reading; its inputs and outputs have no meaning here.
        kind: Format of the stream.
        source: Of bytes.
        sink: Of text.

    Raises:
        UsageError: The format is none.
        NoInputError: The stream holds no document.
        CaseError: A line or document is too long to go on.
        ModelError: There is no such bundle, or its licence is not what was asked for.
    """
    _check_licences(request)
    predictor = load_predictor(request.model, request.device, offline=request.offline)
    read = refused = 0
    for documents in read_stream(source, kind, request.stream):
        readable = [document for document in documents if isinstance(document, Document)]
        found = dict(zip((document.id for document in readable), _predicted(predictor, readable), strict=True))
        for document in documents:
            sink.write(json.dumps(_line(document, found), ensure_ascii=False) + "\n")
        sink.flush()
        read, refused = read + len(documents), refused + len(documents) - len(readable)
    if not read:
        raise NoInputError("PTD-812", "there is no document in the stream", "give one a line", STDIN)
    return 3 if refused else 0


def _check_licences(request: PredictRequest) -> None:
    if request.commercial_only:
        found = peek_manifest(request.model, offline=request.offline)["licences"]
        check_commerce({what: str(found.get(what, "")) for what in ("data", "weights")}, request.model)


def _from_table(request: PredictRequest) -> tuple[list[Case], list[Rejection]]:
    """The documents of a prepared table in one case, so that what ships can be compared with what was scored."""
    documents = [from_case(case) for case in read_cases(request.inputs[0], request.split)]
    held = [{"id": document.id, "text": document.text, "words": document.words} for document in documents]
    target = json.loads(json.dumps({"documents": held}))
    return [Case(id=f"table-{request.split or 'all'}", target=target)] if documents else [], []


def _model_digest(model: str) -> str:
    """The digest that `load_predictor` will find, read without loading weights; a hub id stands for itself."""
    if Path(model).exists():
        return str(read_manifest(Path(model)).get("digest", ""))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise ModelError("PTD-804", "no such bundle", "give a bundle's folder or OWNER/NAME", model)
    return digest_json([model, code_version("nlp")])


def _processor(request: PredictRequest, config: str) -> Callable[[Case, Path], CaseResult]:
    """Load the model once in a worker and return what reads one piece."""
    predictor = load_predictor(request.model, request.device, offline=request.offline)
    return partial(_read, predictor, request, config)


def _read(predictor: Predictor, request: PredictRequest, config: str, case: Case, folder: Path) -> CaseResult:
    documents = _documents(case, request)
    readable = [document for document in documents if isinstance(document, Document)]
    if not readable:
        first = next((item for item in documents if isinstance(item, Unreadable)), None)
        if first is None:
            raise CaseError("PTD-800", "there is no document in it", "leave it out", case.id)
        raise CaseError(first.code, first.problem, first.remedy, first.id)
    predictions = _predicted(predictor, readable)
    pairs = list(zip(readable, predictions, strict=True))
    found = {document.id: one for document, one in pairs}
    with atomic(folder / "predictions.jsonl") as temporary, temporary.open("w", encoding="utf-8") as stream:
        for document in documents:
            stream.write(json.dumps(_line(document, found), ensure_ascii=False) + "\n")
    write_text(folder / REVIEW, _review(pairs))
    if request.outputs == "page":
        from pentad.nlp.page import write_documents_page

        statement = provenance("nlp", model=predictor.digest, config=config, input=input_digest(case))
        write_documents_page(folder / "page.html", case.id, pairs, statement)
    return _result(documents, predictions)


def _documents(case: Case, request: PredictRequest) -> list[Document | Unreadable]:
    held: Any = case.target
    if isinstance(held, dict) and isinstance(held.get("documents"), list):
        found: list[Document | Unreadable] = []
        for item in held["documents"]:
            words = tuple((int(start), int(end)) for start, end in item["words"])
            found.append(Document(str(item["id"]), str(item["text"]), words))
        return found
    return read_chunk(case, request.stream)


def _predicted(predictor: Predictor, documents: Sequence[Document]) -> list[Prediction]:
    found: list[Prediction] = []
    for start in range(0, len(documents), _AT_A_TIME):
        found += [_light(one) for one in predictor.run(documents[start : start + _AT_A_TIME])]
    return found


def _light(one: Prediction) -> Prediction:
    """The prediction without its logits, which a long file would heap up."""
    return Prediction(one.confidence, one.abstained, one.label, one.scores, (), one.found)


def _line(document: Document | Unreadable, found: dict[str, Prediction]) -> dict[str, Any]:
    if isinstance(document, Unreadable):
        return {"id": document.id, "error": {"code": document.code, "reason": document.reason}}
    one = found[document.id]
    line: dict[str, Any] = {"id": document.id, "confidence": round(one.confidence, 6), "abstained": one.abstained}
    if one.label:
        return {**line, "label": one.label, "scores": {name: round(value, 6) for name, value in one.scores.items()}}
    spans = [
        {"start": entity.start, "end": entity.end, "label": entity.label, "score": round(entity.score, 6)}
        for entity in one.found
    ]
    return {**line, "spans": spans}


def _review(pairs: Sequence[tuple[Document, Prediction]]) -> str:
    """The documents left to a person, the least sure first; no word of them, only where they stand."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["uncertainty", "document", "label"])
    unsure = [(1 - one.confidence, document.id, one.label) for document, one in pairs if one.abstained]
    for uncertainty, name, label in sorted(unsure, key=lambda row: (-row[0], row[1])):
        writer.writerow([f"{uncertainty:.6f}", harmless(name), harmless(label)])
    return text.getvalue()


def _result(documents: Sequence[Document | Unreadable], predictions: Sequence[Prediction]) -> CaseResult:
    unreadable = len(documents) - len(predictions)
    abstained = sum(one.abstained for one in predictions)
    row: dict[str, str | float | int] = {
        "documents": len(predictions),
        "unreadable": unreadable,
        "abstained": abstained,
        "entities": sum(len(one.found) for one in predictions),
        "mean_confidence": round(sum(one.confidence for one in predictions) / len(predictions), 6),
    }
    for label in sorted({one.label for one in predictions if one.label}):
        row[f"n_{label}"] = sum(one.label == label for one in predictions)
    return CaseResult(row, ["unreadable_documents"] if unreadable else [])


def _write_review(folder: Path, records: Sequence[CaseRecord]) -> None:
    """Join the pieces' queues to one, the least sure first, in constant memory."""
    best: list[_Unsure] = []
    for record in records:
        if record.status == "ok":
            best = heapq.nsmallest(_MOST_TO_REVIEW, [*best, *_queue(folder / "cases" / record.case)])
    with atomic(folder / REVIEW) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["uncertainty", "case", "document", "label"])
        writer.writerows([f"{-row[0]:.6f}", *row[1:]] for row in best)


def _queue(folder: Path) -> list[_Unsure]:
    path = folder / REVIEW
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1 : _MOST_TO_REVIEW + 1]
    return [(-float(uncertainty), folder.name, name, label) for uncertainty, name, label in rows]
