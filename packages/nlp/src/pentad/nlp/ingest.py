"""Stage prepare: raw files in; checked documents in splits, what was refused and what overlaps out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pentad.core.cases import Rejection, assign_splits, free_id, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError, nearest
from pentad.core.files import write_text
from pentad.core.statement import FILE as STATEMENT
from pentad.core.statement import raw_statement
from pentad.nlp.conll import TagReading, blocks, to_document
from pentad.nlp.documents import Document, to_case
from pentad.nlp.duplicates import find_overlaps
from pentad.nlp.reading import find_files, kind_of, read_text
from pentad.nlp.statement import Statement
from pentad.nlp.tables import Row, column, rows
from pentad.nlp.tags import SCHEMES, Scheme, split_tag
from pentad.nlp.text import check_length

_SPLIT_WORDS = {"train": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}


@dataclass(frozen=True)
class PrepareConfig:
    """Section ``prepare`` of params.yaml.

    Attributes:
        task: ``entities`` (word-per-line files) or ``classes`` (tables).
        files: Split to the names of its files below the raw folder; empty goes by the words train, valid, dev and test
            in the names, and splits the rest.
        split: Shares of the documents that no file name puts into a split.
        seed: Of that split.
        text: Column of the text.
        label: Column of the class.
        group: Column whose values stay on one side of a split; empty for none.
        quoting: Whether quotes hold the fields of CSV and TSV together.
        labels: A label or entity type of the files to the one to learn; empty keeps them. One not named is unknown.
        absent: Labels of texts that have none, as OLID's NULL in its levels B and C; they are left out and counted.
        scheme: Tagging scheme of the files.
        repair: Take an I that continues nothing for a begin instead of refusing the sentence.
        types: Entity types that are known; needed where tags lack the hyphen (MahaNER's BNEP).
        duplicates: What to do with training texts near to a scored one: report them, or drop them too.
        similarity: From which similarity on two texts count as near.
        limit: Split to how many of its documents to take, the first of a shuffled order; others are left out.
        name: Of the data, where no dataset.json in the raw folder says it.
        licence: Of the data, likewise; it is shown wherever they or what learned from them are.
    """

    task: Literal["entities", "classes"]
    files: dict[str, list[str]] = field(default_factory=dict)
    split: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    seed: int = 0
    text: str = "text"
    label: str = "label"
    group: str = ""
    quoting: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    scheme: Scheme = "iob2"
    repair: bool = False
    types: tuple[str, ...] = ()
    duplicates: Literal["report", "drop"] = "report"
    similarity: float = 0.8
    limit: dict[str, int] = field(default_factory=dict)
    name: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES or not 0 < self.similarity <= 1:
            raise ValueError("scheme must be one of iob1, iob2, bioes, plain and similarity above 0 up to 1")
        if min(self.limit.values(), default=0) < 0:
            raise ValueError("limit must not be below 0")

    def tags(self) -> TagReading:
        """How the word-per-line files are read."""
        return TagReading(self.scheme, self.repair, self.types)


@dataclass(frozen=True)
class Prepared:
    """What prepare did: how many documents were refused, and a line that says all."""

    refused: int
    text: str


def prepare(raw: Path, out: Path, config: PrepareConfig, *, dry_run: bool = False, overwrite: bool = False) -> Prepared:
    """Read raw files and write ``cases.jsonl``, ``rejected.jsonl``, ``duplicates.jsonl`` and ``dataset.json``.

    Raises:
        UsageError: The input or output folder cannot be used.
        NoInputError: There is no usable document.
    """
    if not raw.exists():
        raise UsageError("PTD-777", "there is nothing here", "correct the path of the input", raw)
    if (out / "cases.jsonl").exists() and not (overwrite or dry_run):
        raise UsageError("PTD-778", "the folder holds prepared cases", "choose another, or say --overwrite", out)
    documents, refused = read_documents(raw, config)
    if not documents:
        first = f"; the first refusal: {refused[0].code} {refused[0].where}: {refused[0].reason}" if refused else ""
        raise NoInputError("PTD-779", f"no usable document{first}", "correct the files or prepare's settings", raw)
    labelled = [document for document in documents if config.task == "entities" or document.label]
    absent = len(documents) - len(labelled)
    documents = _limited(_in_splits(labelled, config), config)
    overlaps = find_overlaps(documents, config.similarity)
    dropped = {pair.other for pair in overlaps if pair.splits[1] == "train"} if config.duplicates == "drop" else set()
    documents = [document for document in documents if document.id not in dropped]
    said = raw_statement(raw, Statement)
    said = replace(said, name=config.name or said.name, licence=config.licence or said.licence)
    said = replace(said, task=config.task, labels=tuple(_labels(documents, config)))
    if not dry_run:
        write_cases(out / "cases.jsonl", [to_case(document) for document in documents])
        write_rejections(out / "rejected.jsonl", refused)
        lines = [{**pair.__dict__, "dropped": pair.other in dropped} for pair in overlaps]
        write_text(out / "duplicates.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        said.save(out)
    counts = Counter(document.split for document in documents)
    numbers = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
    what = f"{len(overlaps)} near-duplicates across splits" + (f", {len(dropped)} dropped" if dropped else "")
    what = (f"{absent} without a label left out, " if absent else "") + what
    return Prepared(len(refused), f"{len(documents)} documents ({numbers}), {len(refused)} refused, {what}")


def read_documents(raw: Path, config: PrepareConfig) -> tuple[list[Document], list[Rejection]]:
    """Return every document below a folder with the split its file's name gives, and what was refused.

    Documents whose label is among `PrepareConfig.absent` carry none.
    """
    documents: list[Document] = []
    refused: list[Rejection] = []
    taken: set[str] = set()
    for path, split in _files(raw, config):
        # Two folders may hold files of one name; the id must not depend on where the data lie.
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.split(".")[0]).strip("-._") or "file"
        prefix = free_id(stem, taken)
        taken.add(prefix)
        before = len(documents) + len(refused)
        try:
            for found in _read_file(path, prefix, config):
                if isinstance(found, CaseError):
                    refused.append(_rejection(found, path))
                else:
                    documents.append(replace(found, split=split))
            if len(documents) + len(refused) == before:
                raise CaseError("PTD-800", "there is no document in it", "leave it out", path.name)
        except CaseError as error:
            refused.append(_rejection(error, path))
    return documents, refused


def _rejection(error: CaseError, path: Path) -> Rejection:
    return Rejection(where=error.where or path.name, code=error.code, reason=f"{error.problem}; {error.remedy}.")


def _files(raw: Path, config: PrepareConfig) -> Iterator[tuple[Path, str]]:
    found = [path for path in find_files(raw) if path.name != STATEMENT]
    if not config.files:
        for path in found:
            words = re.split(r"[^a-z]+", path.name.lower().replace("train", "-train-"))
            yield path, next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "")
        return
    known = {path.relative_to(raw).as_posix() if raw.is_dir() else path.name: path for path in found}
    for split, wanted in config.files.items():
        for name in wanted:
            if name not in known:
                problem = f"prepare.files names '{name}', which is not there{nearest(name, known)}"
                raise UsageError("PTD-780", problem, "correct the name", raw)
            yield known[name], split


def _read_file(path: Path, prefix: str, config: PrepareConfig) -> Iterator[Document | CaseError]:
    kind = kind_of(path)
    if config.task == "entities":
        if kind not in ("conll", "tsv", "txt"):
            what = kind or path.suffix.lstrip(".") or "nameless"
            raise CaseError("PTD-781", f"a {what} file holds no tags by word", "give word-per-line files", path.name)
        for number, block in enumerate(blocks(read_text(path)), 1):
            try:
                document = to_document(block, f"{prefix}-{number:06d}", config.tags(), path.name)
                yield _renamed(document, config.labels, f"{path.name}, line {block.line}")
            except CaseError as error:
                yield error
        return
    if kind in ("conll", "txt", ""):
        what = kind or path.suffix.lstrip(".") or "nameless"
        raise CaseError("PTD-781", f"a {what} file holds no labelled columns", "give a table", path.name)
    for number, (where, row) in enumerate(rows(path, quoting=config.quoting), 1):
        try:
            if isinstance(row, CaseError):
                raise row
            label = _label(row, config, where)
            text = column(row, config.text, where)
            check_length(text, where)
            group = column(row, config.group, where) if config.group else ""
            yield Document(f"{prefix}-{number:06d}", text, label=label, group=group)
        except CaseError as error:
            yield error


def _label(row: Row, config: PrepareConfig, where: str) -> str:
    """The class to learn of a row; empty where it has none."""
    if str(row.get(config.label) or "").strip() in config.absent and config.label in row:
        return ""
    return _known(column(row, config.label, where), config.labels, where)


def _known(label: str, labels: Mapping[str, str], where: str) -> str:
    if labels and label not in labels:
        remedy = f"known are {', '.join(labels)}: correct it or prepare.labels"
        raise CaseError("PTD-771", f"the label '{label[:40]}' is unknown", remedy, where)
    return labels.get(label, label)


def _renamed(document: Document, labels: Mapping[str, str], where: str) -> Document:
    if not labels:
        return document
    parts = [split_tag(tag) for tag in document.tags]
    tags = [f"{prefix}-{_known(kind, labels, where)}" if kind else prefix for prefix, kind in parts]
    return replace(document, tags=tuple(tags))


def _in_splits(documents: Sequence[Document], config: PrepareConfig) -> list[Document]:
    open_ones = [to_case(document) for document in documents if not document.split]
    given = {case.id: case.split for case in assign_splits(open_ones, config.split, config.seed)} if open_ones else {}
    return [document if document.split else replace(document, split=given[document.id]) for document in documents]


def _limited(documents: Sequence[Document], config: PrepareConfig) -> list[Document]:
    if not config.limit:
        return list(documents)
    # One shuffled order, so that a larger limit only adds documents.
    order = [document.id for document in documents]
    random.Random(config.seed).shuffle(order)
    kept: set[str] = set()
    counts: Counter[str] = Counter()
    by_id = {document.id: document for document in documents}
    for name in order:
        split = by_id[name].split
        counts[split] += 1
        if counts[split] <= config.limit.get(split, len(documents)):
            kept.add(name)
    return [document for document in documents if document.id in kept]


def _labels(documents: Sequence[Document], config: PrepareConfig) -> list[str]:
    """Types or classes in a fixed order: as prepare names them, else sorted."""
    if config.task == "classes":
        found = {document.label for document in documents}
    else:
        found = {split_tag(tag)[1] for document in documents for tag in document.tags} - {""}
    wanted = list(dict.fromkeys([*config.labels.values(), *config.types]))
    return [name for name in wanted if name in found] + sorted(found - set(wanted))
