"""The command ``pentad nlp``: thin verbs over the stages, with nothing heavy imported before it is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options
from pentad.core.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find entities in text, and hateful posts.\n\nFor instance: pentad nlp predict TEXTS/ -o OUT --model BUNDLE",
)
models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")
app.add_typer(models_app, name="models")

Commercial = Annotated[
    bool, typer.Option("--commercial-only", help="Refuse what has no licence that allows commercial use.")
]


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(help="Folder or file: CoNLL, L3Cube, CSV, TSV, JSONL, Parquet or XLSX.")],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: options.AcceptRefused = False,
) -> None:
    """Check labelled texts, look for near-duplicates across splits and write the case table."""
    from pentad.core.config import load_params
    from pentad.nlp.ingest import PrepareConfig, prepare

    config = load_params(params, "prepare", PrepareConfig, override)
    done = prepare(raw, out, config, dry_run=dry_run, overwrite=overwrite)
    typer.echo(done.text)
    raise typer.Exit(3 if done.refused and not accept_refused else 0)


@app.command()
def train(
    table: options.CaseTable,
    model: Annotated[str, typer.Option(help="Name of a model; see pentad nlp models list.")],
    out: options.NewBundle,
    run: options.RunFolder,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: options.GoOn = False,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
    commercial_only: Commercial = False,
) -> None:
    """Train a model, calibrate it and write its bundle."""
    from pentad.nlp.train import TrainRequest, train

    request = TrainRequest(table, model, out, run, params, tuple(override), resume, overwrite, offline, commercial_only)
    typer.echo(train(request))


@app.command()
def evaluate(
    table: options.CaseTable,
    model: options.Model,
    out: options.Out,
    split: options.Split = "test",
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    subgroups: Annotated[
        list[str],
        typer.Option(help="A group for the bias report and words that name it, say red=red,crimson; repeatable."),
    ] = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """Score a model on labelled documents: a row a document, intervals, calibration and bias."""
    from pentad.nlp.evaluate import evaluate

    chosen = [*override, _terms_setting(subgroups)] if subgroups else override
    text, failed = evaluate(table, split, model, out, params, chosen, device)
    typer.echo(text)
    raise typer.Exit(3 if failed else 0)


def _terms_setting(groups: list[str]) -> str:
    """The setting ``bias.terms=…`` for groups written ``NAME=WORD,WORD``."""
    import json

    terms: dict[str, list[str]] = {}
    for group in groups:
        name, _, words = group.partition("=")
        terms[name.strip()] = [word.strip() for word in words.split(",") if word.strip()]
        if not name.strip() or not terms[name.strip()]:
            raise UsageError("PTD-818", f"'{group}' names no group", "write it as red=red,crimson")
    return f"bias.terms={json.dumps(terms, ensure_ascii=False)}"


@app.command()
@options.of_batch_run
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Folders or files of TXT, CSV, TSV, JSONL or CoNLL, a case table, or - (standard input)."),
    ],
    model: options.Model,
    batch: options.Batch,
    text: Annotated[str, typer.Option(help="Column of the text in CSV, TSV and JSONL.")] = "text",
    quoting: Annotated[bool, typer.Option(help="Whether quotes hold the fields of CSV and TSV together.")] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="Take a TXT file as one document, not each of its lines.")
    ] = False,
    kind: Annotated[
        str, typer.Option("--format", help="Of standard input: txt, csv, tsv, jsonl or conll; answered with -o -.")
    ] = "",
    chunk_kib: Annotated[int, typer.Option(min=1, help="Kibibytes of a file that make one unit of work.")] = 1024,
    outputs: Annotated[str, typer.Option(help="What to write beside predictions.jsonl: page or nothing.")] = "page",
    device: options.Device = "auto",
    offline: options.Offline = False,
    commercial_only: Commercial = False,
    split: options.Split = "",
    dry_run: options.DryRun = False,
) -> None:
    """Read every text below the inputs; one bad line or file never stops the rest.

    As a filter: … | pentad nlp predict - --format jsonl -o - --model BUNDLE | …
    """
    from pentad.nlp.infer import PredictRequest, answer, check_filter, predict
    from pentad.nlp.streams import StreamConfig

    stream = StreamConfig(text=text, quoting=quoting, whole=whole, chunk_bytes=chunk_kib * 1024)
    request = PredictRequest(tuple(inputs), model, stream, outputs, device, offline, split, commercial_only)
    if check_filter(inputs, batch.out, kind):
        raise typer.Exit(answer(request, kind, sys.stdin.buffer, sys.stdout))
    raise typer.Exit(predict(request, batch, only_say=dry_run))


@app.command()
def report(
    table: options.CaseTable,
    evaluations: options.Evaluations,
    out: options.Out,
    predictions: options.Predictions = None,
    runs: options.Histories = None,
) -> None:
    """Put models side by side with paired differences, calibration and bias, and write the page."""
    from pentad.nlp.report import report

    typer.echo(report(table, evaluations, out, predictions=predictions, runs=runs))


@models_app.command("list")
def list_models(
    json_lines: options.Json = False,
) -> None:
    """List the architectures."""
    import inspect
    import json

    from pentad.nlp.models import MODELS

    for name, found in MODELS.items():
        summary = (inspect.getdoc(found.model) or "").partition("\n")[0]
        line = {"name": name, "task": found.task, "summary": summary, "licence": "Apache-2.0"}
        typer.echo(json.dumps(line) if json_lines else f"{name:<14} {found.task:<9} {summary}")


@models_app.command("show")
def show_model(bundle: options.AnyBundle, offline: options.Offline = False) -> None:
    """Show what a bundle says of itself as JSON: classes, settings, digest, licences of code, weights and data."""
    import json

    from pentad.core.bundle import peek_manifest

    typer.echo(json.dumps(peek_manifest(bundle, offline=offline), indent=2, ensure_ascii=False))


@models_app.command("import")
def import_model(
    weights: Annotated[Path, typer.Argument(help="A 4-bit file of multilingual-e5-small (e5-small-q4.bin).")],
    tokenizer: Annotated[Path, typer.Option(help="The encoder's tokenizer.json.")],
    out: options.Out,
) -> None:
    """Unpack an encoder's 4-bit file into a folder that `encoder.source` takes."""
    from pentad.nlp.four_bit import unpack

    typer.echo(unpack(weights, tokenizer, out))


@models_app.command("export")
def export_model(
    bundle: options.AnyBundle,
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="transformers or onnx.")],
    tolerance: options.Tolerance = 1e-4,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
) -> None:
    """Write a bundle as a folder for transformers or as ONNX; refused unless it gives the same numbers there."""
    from pentad.nlp.export import export

    typer.echo(export(bundle, kind, out, tolerance=tolerance, overwrite=overwrite, offline=offline))
