"""Stage train: prepared documents in, a calibrated bundle out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pentad.core.bundle import check_target, save_bundle
from pentad.core.cases import data_digest, read_cases
from pentad.core.config import load_params, read_params, to_mapping
from pentad.core.errors import UsageError
from pentad.core.files import digest_json
from pentad.core.optimization import TrainConfig
from pentad.core.processes import processes
from pentad.core.run import pick_device, provenance, seed_everything
from pentad.core.statement import read_statement
from pentad.core.trainer import fit
from pentad.nlp.calibration import fit_temperature
from pentad.nlp.dataset import IGNORED, Batches, TextConfig, Window, align, pieces_of, windows_of
from pentad.nlp.documents import Document, from_case
from pentad.nlp.learning import BaselineConfig, EncoderChoice, LearnConfig, ModelConfig
from pentad.nlp.licences import card_licence, check_commerce
from pentad.nlp.losses import balanced_weights, classification_loss
from pentad.nlp.metrics import class_counts, entity_counts, entity_f1, macro_f1
from pentad.nlp.models import BASELINES, entry
from pentad.nlp.models.bert_cnn import BertCnnConfig
from pentad.nlp.models.char_tfidf import fit_char_tfidf
from pentad.nlp.models.crf import fit_crf
from pentad.nlp.models.encoder import EncoderConfig, find_pretrained, positions, scale_learning_rates
from pentad.nlp.predict import Prediction, Settings, predict_documents
from pentad.nlp.statement import Statement
from pentad.nlp.tags import split_tag, tag_names
from pentad.nlp.text import normalise
from pentad.nlp.tokenizer import FILE, PieceTokenizer, learn


@dataclass(frozen=True)
class TrainRequest:
    """What to train, from what, and where to.

    Attributes:
        table: Case table; its split ``train`` is learned, its split ``val`` stops and calibrates.
        model: Name in `pentad.nlp.models.MODELS`.
        out: The bundle's folder.
        run: Folder of the history and, until the run is over, of checkpoints.
        params: With the sections ``train``, ``text``, ``encoder``, ``learning``, ``baseline`` and ``bert_cnn``; all but
            the first may be left out.
        overrides: Changes to the section ``train``.
        resume: Go on from the checkpoint in ``run``, if there is one of the same settings.
        overwrite: Replace a bundle at ``out``.
        offline: Never ask the network for an encoder.
        commercial_only: Refuse data or an encoder whose licence does not allow commercial use.
    """

    table: Path
    model: str
    out: Path
    run: Path
    params: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    overwrite: bool = False
    offline: bool = False
    commercial_only: bool = False


@dataclass(frozen=True)
class Plan:
    """The settings of one training, each from its section."""

    train: TrainConfig
    text: TextConfig
    encoder: EncoderChoice
    learning: LearnConfig
    baseline: BaselineConfig
    bert_cnn: ModelConfig

    @classmethod
    def read(cls, params: Path, overrides: Sequence[str]) -> Plan:
        """Return the settings of a params.yaml; a section that is not there keeps its defaults."""
        there = read_params(params)
        kinds: dict[str, type[Any]] = {
            "text": TextConfig,
            "encoder": EncoderChoice,
            "learning": LearnConfig,
            "baseline": BaselineConfig,
            "bert_cnn": ModelConfig,
        }
        found = {name: load_params(params, name, kind) if name in there else kind() for name, kind in kinds.items()}
        return cls(load_params(params, "train", TrainConfig, overrides), **found)


@dataclass(frozen=True)
class Trained:
    """What a training gave: the model, what it needs beside it, and a line on how it went."""

    model: nn.Module
    tokenizer: PieceTokenizer | None
    how: str
    encoder_licence: str = ""


def train(request: TrainRequest) -> str:
    """Train one model, calibrate it on the validation split, write its bundle and return a one-line summary."""
    check_target(request.out, overwrite=request.overwrite)
    said = read_statement(request.table, Statement)
    chosen = entry(request.model, said.task)
    plan = Plan.read(request.params, request.overrides)
    if request.commercial_only:
        _check_commerce(request, said, plan)
    cases = read_cases(request.table, "train")
    documents = [from_case(case) for case in cases]
    held = [from_case(case) for case in read_cases(request.table, "val")]
    if not documents:
        raise UsageError("PTD-791", "no document to train on", "prepare a split named train", request.table)
    _check_variety(documents, said.task, request.table)
    labels = tuple(tag_names(said.labels) if said.task == "entities" else said.labels)
    settings = Settings(chosen.task, labels, plan.text, abstain_below=plan.learning.abstain_below)
    seed_everything(plan.train.seed)
    if request.model in BASELINES:
        trained = _fit_baseline(request.model, documents, settings, plan)
    else:
        trained = _fit_network(request, documents, held, settings, plan)
    device = pick_device(plan.train.device)
    found = predict_documents(trained.model, trained.tokenizer, settings, held, device) if held else []
    temperature = fit_temperature(*_on_validation(held, found, settings))
    settings = Settings(chosen.task, labels, plan.text, temperature, plan.learning.abstain_below)
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    save_bundle(
        request.out,
        trained.model.cpu(),
        domain="nlp",
        name=request.model,
        settings=settings.to_mapping(),
        card=_card(request.model, said, trained.how, temperature, len(documents)),
        provenance=provenance(
            "nlp", seed=plan.train.seed, data=data_digest(cases), config=digest_json(to_mapping(plan))
        ),
        licences=_licences(said.licence, trained.encoder_licence),
        extra={FILE: trained.tokenizer.text} if trained.tokenizer else None,
        overwrite=request.overwrite,
    )
    shutil.rmtree(request.run / "checkpoint", ignore_errors=True)  # the run is over: a repetition starts afresh
    size = f"{parameters / 1e6:.2f} M parameters, " if parameters else ""
    return f"{request.model}: {size}{trained.how}, temperature {temperature}"


def _fit_baseline(name: str, documents: Sequence[Document], settings: Settings, plan: Plan) -> Trained:
    how, baseline = settings.text.normalisation, plan.baseline
    if name == "crf":
        words = [[normalise(text.text[a:b], how).text for a, b in text.spans()] for text in documents]
        tags = [document.tags for document in documents]
        model: nn.Module = fit_crf(words, tags, settings.labels, l1=baseline.l1, l2=baseline.l2, rounds=baseline.rounds)
    else:
        model = fit_char_tfidf(
            [normalise(document.text, how).text for document in documents],
            [document.label for document in documents],
            settings.labels,
            strength=baseline.strength,
            features=baseline.features,
            balanced=plan.learning.class_weights == "balanced",
        )
    return Trained(model.eval(), None, f"fitted on {len(documents)} documents")


def _fit_network(
    request: TrainRequest, documents: Sequence[Document], held: Sequence[Document], settings: Settings, plan: Plan
) -> Trained:
    by_word = settings.task == "entities"
    model, tokenizer, licence = _build(request, documents, settings, plan)
    learning = plan.learning
    scale_learning_rates(
        model, learning.layer_decay, head=learning.head_rate, freeze_embeddings=learning.freeze_embeddings
    )
    pieces = pieces_of(documents, tokenizer, settings.text, by_word=by_word)
    windows = labelled(windows_of(pieces, tokenizer, settings.text), documents, settings)
    batch = plan.train.batch_size * processes()  # of all together: each takes its share of texts of like length
    samples = Batches(windows, batch, plan.train.seed, plan.learning.mask, tokenizer)
    every = [label for window in windows for label in window.labels if label != IGNORED]
    weights = balanced_weights(every, len(settings.labels)) if plan.learning.class_weights == "balanced" else None

    def objective(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        logits = network(batch["input_ids"], batch["attention_mask"])
        share = weights.to(logits.device) if weights is not None else None
        return classification_loss(logits, batch["labels"], share, plan.learning.focal)

    def validate(network: nn.Module) -> Mapping[str, float]:
        device = next(network.parameters()).device
        return score_held(held, predict_documents(network, tokenizer, settings, held, device), settings)

    result = fit(
        model, samples, objective, plan.train, request.run, validate=validate if held else None, resume=request.resume
    )
    return Trained(model, tokenizer, f"{result.steps} steps in {result.seconds:.0f} s", licence)


def _build(
    request: TrainRequest, documents: Sequence[Document], settings: Settings, plan: Plan
) -> tuple[nn.Module, PieceTokenizer, str]:
    """The untrained model, with a pretrained encoder or a small one and a vocabulary of its own, and its licence."""
    how, choice = settings.text.normalisation, plan.encoder
    source = find_pretrained(choice.source, offline=request.offline) if choice.source else None
    texts = [normalise(document.text, how).text for document in documents]
    if source:
        source = source.first_layers(choice.keep_layers) if choice.keep_layers else source
        source = source.trimmed(texts) if choice.trim else source
        tokenizer, values = PieceTokenizer(source.tokenizer), source.values
    else:
        tokenizer = PieceTokenizer(learn(texts, choice.vocabulary, choice.pieces))
        values = choice.values(tokenizer.size, settings.text.max_length, tokenizer.pad)
    if positions(values) < settings.text.max_length:
        problem = f"max_length {settings.text.max_length} is more than the encoder's {positions(values)} positions"
        raise UsageError("PTD-795", problem, "lower text.max_length", request.params)
    found = entry(request.model, settings.task)
    if found.config is BertCnnConfig:
        config: EncoderConfig = BertCnnConfig(settings.labels, values, **vars(plan.bert_cnn))
    else:
        config = EncoderConfig(settings.labels, values)
    model = found.model(config)
    if source:
        model.start_from(source)  # type: ignore[operator]
    return model, tokenizer, source.licence if source else ""


def labelled(windows: Sequence[Window], documents: Sequence[Document], settings: Settings) -> list[Window]:
    """Return the windows with what is to be learned of each.

    Raises:
        UsageError: A document carries no label, or one that the data's statement does not name.
    """
    index = {name: place for place, name in enumerate(settings.labels)}
    try:
        if settings.task == "classes":
            return [replace(window, labels=(index[documents[window.document].label],)) for window in windows]
        tags = [[index[tag] for tag in document.tags] for document in documents]
    except KeyError as error:
        problem = f"the label {error} is not among {', '.join(settings.labels)}"
        raise UsageError("PTD-796", problem, "prepare the data again") from None
    return [align(window, tags[window.document]) for window in windows]


def score_held(documents: Sequence[Document], found: Sequence[Prediction], settings: Settings) -> dict[str, float]:
    """Return what decides when to stop: strict F1 of the entities, or macro-F1 of the classes."""
    if settings.task == "entities":
        kinds = list(dict.fromkeys(split_tag(name)[1] for name in settings.labels if name != "O"))
        pairs = zip(documents, found, strict=True)
        counts = [entity_counts(document.tags, one.tags, kinds)["strict"]["all"] for document, one in pairs]
        return {"f1": float(np.nan_to_num(entity_f1(np.sum(counts, axis=0))))}
    index = {name: place for place, name in enumerate(settings.labels)}
    wanted = np.array([index[document.label] for document in documents])
    given = np.array([index[one.label] for one in found])
    sums = class_counts(wanted, given, len(index)).sum(0)
    return {"macro_f1": float(macro_f1(sums, len(index))), "accuracy": float((wanted == given).mean())}


def _on_validation(
    documents: Sequence[Document], found: Sequence[Prediction], settings: Settings
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Logits and labels to fit the temperature on: a row a word for entities, a row a document for classes."""
    index = {name: place for place, name in enumerate(settings.labels)}
    if not documents:
        return np.zeros((0, len(index))), np.zeros(0, np.int64)
    if settings.task == "entities":
        tags = [index[tag] for document in documents for tag in document.tags]
        return np.concatenate([one.logits for one in found]), np.array(tags)
    return np.stack([one.logits for one in found]), np.array([index[document.label] for document in documents])


def _check_commerce(request: TrainRequest, said: Statement, plan: Plan) -> None:
    """Refuse data, and an encoder before it is fetched, whose licence does not allow commercial use."""
    check_commerce({"data": said.licence}, request.table)
    if plan.encoder.source and request.model not in BASELINES:
        found = card_licence(plan.encoder.source, offline=request.offline)
        check_commerce({"model card": found}, plan.encoder.source)


def _check_variety(documents: Sequence[Document], task: str, table: Path) -> None:
    found = {label for document in documents for label in (document.tags if task == "entities" else [document.label])}
    if len(found) < 2:
        what = f"'{found.pop()}' alone" if found else "nothing"
        problem = f"the documents to train on are labelled {what}"
        raise UsageError("PTD-817", problem, "prepare documents of two classes or more", table)


def _licences(data: str, encoder: str) -> dict[str, str]:
    """Licences of code, weights and data; what a licence of data says of models is for the user to judge."""
    weights = f"as the training data: {data}"
    if encoder:
        weights += f"; as the encoder they began with: {encoder}"
    return {"code": "Apache-2.0", "weights": weights, "data": data}


def _card(name: str, said: Statement, how: str, temperature: float, documents: int) -> str:
    finds = "named entities" if said.task == "entities" else "classes of texts"
    synthetic = "\n- Synthetic data: it shows that the pipeline works, nothing else." if said.synthetic else ""
    commercial = "\n- The data's licence forbids commercial use." if said.non_commercial else ""
    return f"""# {name}

Finds {finds}: {", ".join(said.labels)}. Scores support a person's judgement and do not replace it.

- Trained on {documents} documents of {said.name}, {how}. Licence of the data: {said.licence}.{synthetic}{commercial}
- Calibrated on the validation split: temperature {temperature}.
- `bundle.json` states the code, the data's digest and the settings.
"""
