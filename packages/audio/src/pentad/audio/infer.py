"""Stage predict: recordings in; scores, a timeline, events, a page for each and a worklist out."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pentad.audio.events import SoundEvent
from pentad.audio.keeping import KeptScores
from pentad.audio.layouts import sound_files
from pentad.audio.overview import Overview
from pentad.audio.predict import Tagger, Tagging, WindowScores, load_tagger
from pentad.audio.waveform import SUFFIXES, Header, read_header
from pentad.core.batch import BatchOptions, CaseRecord, CaseResult, dry_run, kept_folder, run_batch, tell_share
from pentad.core.bundle import read_manifest
from pentad.core.cases import Case, Rejection, free_id, input_digest, read_cases, write_rejections
from pentad.core.errors import ModelError, UsageError, nearest
from pentad.core.files import atomic, digest_json, outside_results, write_json, write_text
from pentad.core.report import Block, Cell, Figure, Notice, Table, write_page
from pentad.core.run import code_version, provenance

OUTPUTS = ("csv", "json", "audacity", "page", "embeddings")
_TOP = 5


@dataclass(frozen=True)
class PredictRequest:
    """What to tag, with what, and what to write."""

    inputs: tuple[Path, ...]
    """Folders or files of sound, or one case table (.jsonl)."""
    model: str
    """Bundle folder or hub id."""
    split: str = ""
    """Only this split of a case table."""
    outputs: str = "csv,json,audacity,page"
    """Comma-separated: csv, json, audacity, page, embeddings."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    offline: bool = False
    """Never ask the network for a model."""

    def wanted(self) -> tuple[str, ...]:
        """Return the outputs asked for.

        Raises:
            UsageError: One is not known.
        """
        asked = tuple(part for part in self.outputs.split(",") if part)
        for name in asked:
            if name not in OUTPUTS:
                problem = f"'{name}' is no output{nearest(name, OUTPUTS)}"
                raise UsageError("PTD-739", problem, f"give any of {', '.join(OUTPUTS)} to --outputs")
        return asked


def predict(request: PredictRequest, options: BatchOptions, *, only_say: bool = False) -> int:
    """Tag every recording below the inputs and return the exit code of `pentad.core.batch.run_batch`.

    Raises:
        UsageError: An input, the options or the output folder cannot be used; nothing was started.
        ModelError: There is no such bundle.
    """
    outputs = request.wanted()
    identity = {
        "model": _model_digest(request.model),
        "config": digest_json(list(outputs)),
        "code": code_version("audio")["source"],
    }
    cases, aside = _cases(request)
    if only_say:
        return dry_run(cases, options, identity, [])
    return run_batch(cases, partial(_processor, request, outputs), options, identity, [], partial(_write_aside, aside))


def _model_digest(model: str) -> str:
    """The digest that `load_tagger` will find, read without loading weights; a hub id stands for itself."""
    if Path(model).exists():
        return str(read_manifest(Path(model)).get("digest", ""))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        raise ModelError("PTD-740", "no such bundle", "give a bundle's folder or OWNER/NAME", model)
    return digest_json([model, code_version("audio")])


def _cases(request: PredictRequest) -> tuple[list[Case], list[Rejection]]:
    """The recordings, and every file that is none by its name."""
    if [path.suffix for path in request.inputs] == [".jsonl"]:
        # Labels stay behind: a prediction neither needs them nor must change with them.
        known = read_cases(request.inputs[0], request.split)
        return [Case(id=case.id, files=case.files, group=case.group) for case in known], []
    for path in request.inputs:
        if not path.exists():
            raise UsageError("PTD-741", "no such file or folder", "correct the path", path)
    cases: list[Case] = []
    taken: set[str] = set()
    for path, root in sound_files(list(request.inputs)):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.relative_to(root).as_posix()).lstrip("._-")[:110] or "recording"
        name = free_id(stem, taken)
        taken.add(name)
        cases.append(Case(id=name, files={"audio": os.path.realpath(path)}))
    aside = [
        Rejection(where=path.relative_to(root).as_posix(), code="PTD-742", reason="no sound file by its suffix.")
        for root in request.inputs
        if root.is_dir()
        for path in sorted(outside_results(root.rglob("*"), root))
        if path.is_file() and path.suffix.lower() not in SUFFIXES
    ]
    return cases, aside


def _write_aside(items: Sequence[Rejection], folder: Path, records: Sequence[CaseRecord]) -> None:
    write_rejections(folder / "left_aside.jsonl", items)


def _processor(request: PredictRequest, outputs: Sequence[str]) -> Callable[[Case, Path], CaseResult]:
    """Load the model, once in each worker, and return what tags one recording."""
    return partial(_tag, load_tagger(request.model, request.device, offline=request.offline), tuple(outputs))


def _tag(tagger: Tagger, outputs: tuple[str, ...], case: Case, folder: Path) -> CaseResult:
    path = Path(case.files["audio"])
    header, content = read_header(path), input_digest(case)
    rate, classes = tagger.settings.frontend.sample_rate, tagger.settings.classes
    overview = Overview(header.seconds, rate) if "page" in outputs else None
    embeddings: list[NDArray[np.float32]] = []
    with ExitStack() as stack:
        timeline = stack.enter_context((folder / "timeline.csv").open("w", newline="", encoding="utf-8"))
        writer = csv.writer(timeline, lineterminator="\n")
        writer.writerow(["start_s", "end_s", *classes])

        def sink(scores: WindowScores) -> None:
            begin, end = scores.start / rate, (scores.start + scores.samples) / rate
            writer.writerow([f"{begin:.3f}", f"{end:.3f}", *(f"{value:.4f}" for value in scores.clip)])
            tell_share(end / max(header.seconds, end))
            if overview is not None:
                overview.add(scores)
            if "embeddings" in outputs:
                embeddings.append(scores.embedding)

        tagging = tagger.run(path, sink, _kept(tagger, header, case, folder, content))
    statement = provenance("audio", model=tagger.digest, config=digest_json(list(outputs)), input=content)
    if "csv" in outputs:
        _write_csv(folder, tagging, classes)
    else:
        (folder / "timeline.csv").unlink()
    if "audacity" in outputs:
        rows = [f"{event.onset:.6f}\t{event.offset:.6f}\t{event.label}" for event in tagging.events]
        write_text(folder / "labels.txt", "".join(row + "\n" for row in rows))
    if "json" in outputs:
        write_json(folder / "result.json", _as_json(tagging, classes, statement))
    if embeddings:
        with atomic(folder / "embeddings.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.stack(embeddings), allow_pickle=False)
    if overview is not None:
        _write_page(folder / "page.html", case.id, tagging, classes, overview, statement)
    flags = [*tagging.flags, *([] if tagging.events else ["no_event"])]
    best = int(np.argmax(tagging.mean))
    row: dict[str, str | float | int] = {
        "top_class": classes[best],
        "top_score": round(float(tagging.mean[best]), 4),
        "events": len(tagging.events),
        "recording_s": round(tagging.seconds, 3),
        "windows": tagging.windows,
    }
    return CaseResult(row, flags)


def _kept(tagger: Tagger, header: Header, case: Case, folder: Path, content: str) -> KeptScores | None:
    """Where a recording of more windows than one batch keeps its scores, so that a killed run goes on in its middle."""
    windows = tagger.settings.windows
    if header.seconds <= windows.window_s + (windows.batch_size - 1) * windows.hop_s:
        return None
    key = digest_json([tagger.digest, content, tagger.device.type, code_version("audio")["source"]])
    return KeptScores(kept_folder(folder, case, key))


def _write_csv(folder: Path, tagging: Tagging, classes: Sequence[str]) -> None:
    scores = [(name, f"{tagging.mean[k]:.6g}", f"{tagging.highest[k]:.6g}") for k, name in enumerate(classes)]
    events = [(f"{one.onset:.3f}", f"{one.offset:.3f}", one.label, f"{one.peak:.4f}") for one in tagging.events]
    tables: dict[str, list[tuple[str, ...]]] = {
        "scores.csv": [("class", "mean", "highest"), *scores],
        "events.csv": [("onset_s", "offset_s", "label", "peak"), *events],
    }
    for name, rows in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # classes such as "Male speech, man speaking"
        write_text(folder / name, text.getvalue())


def _as_json(tagging: Tagging, classes: Sequence[str], statement: dict[str, object]) -> dict[str, object]:
    def event(found: SoundEvent) -> dict[str, object]:
        return {"onset_s": found.onset, "offset_s": found.offset, "label": found.label, "peak": found.peak}

    return {
        "seconds": round(tagging.seconds, 4),
        "windows": tagging.windows,
        "scores": {name: round(float(tagging.mean[k]), 6) for k, name in enumerate(classes)},
        "highest": {name: round(float(tagging.highest[k]), 6) for k, name in enumerate(classes)},
        "events": [event(found) for found in tagging.events],
        "flags": tagging.flags,
        "provenance": statement,
    }


def _write_page(
    path: Path,
    name: str,
    tagging: Tagging,
    classes: Sequence[str],
    overview: Overview,
    statement: dict[str, object],
) -> None:
    blocks: list[Block] = []
    if tagging.flags:
        blocks.append(Notice("Read with care", "; ".join(flag.replace("_", " ") for flag in tagging.flags) + "."))
    words = f"{len(tagging.events)} events in {tagging.seconds:.1f} s"
    caption = f"Log-mel spectrogram of the whole recording, and the events found: {words}."
    blocks.append(Figure(overview.draw(tagging.events, classes), alt=caption, caption=caption))
    best = np.argsort(-tagging.mean, kind="stable")[:_TOP]
    rows: list[list[Cell]] = [[classes[k], float(tagging.mean[k]), float(tagging.highest[k])] for k in best]
    note = f"Mean and highest probability over {tagging.windows} windows."
    blocks.append(Table(["class", "mean", "highest"], rows, "Scores of the recording", note))
    found: list[list[Cell]] = [[event.onset, event.offset, event.label, event.peak] for event in tagging.events[:200]]
    more = f"The first 200 of {len(tagging.events)}; events.csv holds all." if len(tagging.events) > 200 else ""
    blocks.append(Table(["onset, s", "offset, s", "class", "peak"], found, "Events", more))
    write_page(path, name, blocks, statement)
