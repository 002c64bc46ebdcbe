"""The command ``pentad audio``: thin verbs over the stages, with nothing heavy imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.audio.models_cli import app as models_app
from pentad.core import options

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Tag recordings and find sound events.\n\n"
    "For instance: pentad audio predict RECORDINGS/ -o OUT --model BUNDLE",
)
app.add_typer(models_app, name="models")


@app.command()
def prepare(
    raw: Annotated[
        Path, typer.Argument(help="Data set: strong labels, ESC, Speech Commands, FSD50K, AudioSet, folders.")
    ],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: options.AcceptRefused = False,
) -> None:
    """Decode every recording, check its labels and write the case table."""
    from pentad.audio.ingest import PrepareConfig, prepare
    from pentad.core.config import load_params

    config = load_params(params, "prepare", PrepareConfig, override)
    done = prepare(raw, out, config, dry_run=dry_run, overwrite=overwrite)
    typer.echo(done.text)
    raise typer.Exit(3 if done.refused and not accept_refused else 0)


@app.command()
def train(
    table: options.CaseTable,
    model: Annotated[str, typer.Option(help="Name of a model; see pentad audio models list.")],
    out: options.NewBundle,
    run: options.RunFolder,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: options.GoOn = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model and write its bundle."""
    from pentad.audio.models import check_name
    from pentad.audio.train import TrainRequest, train

    check_name(model)
    request = TrainRequest(table, model, out, run, params, tuple(override), resume, overwrite)
    typer.echo(train(request))


@app.command()
def evaluate(
    table: options.CaseTable,
    model: options.Model,
    out: options.Out,
    split: options.Split = "test",
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """Score a model on labelled recordings: a row a recording, and intervals."""
    from pentad.audio.evaluate import evaluate

    text, failed = evaluate(table, split, model, out, params, override, device)
    typer.echo(text)
    raise typer.Exit(3 if failed else 0)


@app.command()
@options.of_batch_run
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Folders or files of sound, or a case table.")],
    model: options.Model,
    batch: options.Batch,
    split: options.Split = "",
    outputs: Annotated[
        str, typer.Option(help="What to write: any of csv,json,audacity,page,embeddings.")
    ] = "csv,json,audacity,page",
    device: options.Device = "auto",
    offline: options.Offline = False,
    dry_run: options.DryRun = False,
) -> None:
    """Tag every recording below the inputs, of any length; one bad file never stops the rest."""
    from pentad.audio.infer import PredictRequest, predict

    request = PredictRequest(tuple(inputs), model, split, outputs, device, offline)
    raise typer.Exit(predict(request, batch, only_say=dry_run))


@app.command()
def report(
    table: options.CaseTable,
    evaluations: options.Evaluations,
    out: options.Out,
    predictions: options.Predictions = None,
    runs: options.Histories = None,
) -> None:
    """Put models side by side with paired differences, and write the page."""
    from pentad.audio.report import report

    typer.echo(report(table, evaluations, out, predictions=predictions, runs=runs))
