"""The command ``pentad remote-sensing``: thin verbs over the stages, nothing heavy imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options
from pentad.remote_sensing.models_cli import app as models_app

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find what changed between two images of one place.\n\n"
    "For instance: pentad remote-sensing predict before.tif after.tif -o OUT --model BUNDLE",
)

app.add_typer(models_app, name="models")

Model = Annotated[str, typer.Option(help="Bundle folder, or the name of a baseline without weights (differencing).")]


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(help="Pairs as LEVIR-CD, WHU-CD, SYSU-CD, SECOND, xBD or the samples.")],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: options.AcceptRefused = False,
) -> None:
    """Check pairs and labels and write the case table."""
    from pentad.core.config import load_params
    from pentad.remote_sensing.ingest import PrepareConfig, prepare

    config = load_params(params, "prepare", PrepareConfig, override)
    done = prepare(raw, out, config, dry_run=dry_run, overwrite=overwrite)
    typer.echo(done.text)
    raise typer.Exit(3 if done.refused and not accept_refused else 0)


@app.command()
def train(
    table: options.CaseTable,
    model: Annotated[str, typer.Option(help="Name of a model; see pentad remote-sensing models list.")],
    out: options.NewBundle,
    run: options.RunFolder,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: options.GoOn = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model and write its bundle."""
    from pentad.remote_sensing.train import TrainRequest, train

    typer.echo(train(TrainRequest(table, model, out, run, params, tuple(override), resume, overwrite)))


@app.command()
def evaluate(
    table: options.CaseTable,
    model: Model,
    out: options.Out,
    split: options.Split = "test",
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    device: options.Device = "auto",
) -> None:
    """Score a model on labelled pairs: a row a scene, and intervals."""
    from pentad.remote_sensing.evaluate import evaluate

    text, failed = evaluate(table, split, model, out, params, override, device)
    typer.echo(text)
    raise typer.Exit(3 if failed else 0)


@app.command()
@options.of_batch_run
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Before and after; or a folder of pairs; or a case table.")],
    model: Model,
    batch: options.Batch,
    split: options.Split = "",
    params: Annotated[
        Path | None, typer.Option(help="A params.yaml with the threshold (evaluate) and the polygons (predict).")
    ] = None,
    warp: Annotated[bool, typer.Option("--warp", help="Warp the second date onto the first one's grid.")] = False,
    unplaced: Annotated[
        bool, typer.Option("--unplaced", help="Accept rasters that do not say where they lie.")
    ] = False,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
) -> None:
    """Map the change in every pair; one bad pair never stops the rest."""
    from pentad.remote_sensing.infer import PredictRequest, predict

    request = PredictRequest(tuple(inputs), model, split, params, warp, unplaced, device)
    raise typer.Exit(predict(request, batch, only_say=dry_run))


@app.command()
def report(
    table: options.CaseTable,
    evaluations: options.Evaluations,
    out: options.Out,
    predictions: options.Predictions = None,
) -> None:
    """Put models side by side with paired differences, and write the page."""
    from pentad.remote_sensing.report import report

    typer.echo(report(table, evaluations, out, predictions))
