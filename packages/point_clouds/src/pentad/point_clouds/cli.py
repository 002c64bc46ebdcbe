"""The command ``pentad point-clouds``: thin verbs over the stages, nothing heavy imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options
from pentad.point_clouds.models_cli import app as models_app

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find objects in LiDAR sweeps.\n\nFor instance: pentad point-clouds predict SWEEPS/ -o OUT --model BUNDLE",
)
app.add_typer(models_app, name="models")


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(help="Labelled frames: KITTI, nuScenes, Argoverse 2, or frames/*.json.")],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: options.AcceptRefused = False,
) -> None:
    """Check sweeps, calibrations and boxes and write the case table."""
    from pentad.core.config import load_params
    from pentad.point_clouds.ingest import PrepareConfig, prepare

    config = load_params(params, "prepare", PrepareConfig, override)
    done = prepare(raw, out, config, dry_run=dry_run, overwrite=overwrite)
    typer.echo(done.text)
    raise typer.Exit(3 if done.refused and not accept_refused else 0)


@app.command()
def check(
    raw: Annotated[Path, typer.Argument(help="Folder of sweeps in any known layout, or one file.")],
    frames: Annotated[int, typer.Option(min=1, help="At most so many frames, evenly taken.")] = 20,
    json_lines: options.Json = False,
) -> None:
    """Say what the data are: axes, range, intensity scale, ground height, points in boxes, and what looks wrong."""
    from pentad.point_clouds.check import check

    text, wrong = check(raw, frames, as_json=json_lines)
    typer.echo(text)
    raise typer.Exit(3 if wrong else 0)


@app.command()
def train(
    table: options.CaseTable,
    model: Annotated[str, typer.Option(help="flatformer or point_pillars.")],
    out: options.NewBundle,
    run: options.RunFolder,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: options.GoOn = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model and write its bundle."""
    from pentad.point_clouds.train import TrainRequest, check_name, train

    check_name(model)
    typer.echo(train(TrainRequest(table, model, out, run, params, tuple(override), resume, overwrite)))


@app.command()
def evaluate(
    table: options.CaseTable,
    model: options.Model,
    out: options.Out,
    split: options.Split = "test",
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Score a model on labelled frames: a row a frame, and intervals."""
    from pentad.point_clouds.evaluate import EvaluateRequest, evaluate

    text, failed = evaluate(EvaluateRequest(table, split, model, out, params, tuple(override), device, overwrite))
    typer.echo(text)
    raise typer.Exit(3 if failed else 0)


@app.command()
@options.of_batch_run
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Folders or files of sweeps, or a case table.")],
    model: options.Model,
    batch: options.Batch,
    split: options.Split = "",
    outputs: Annotated[str, typer.Option(help="What to write: any of kitti,nuscenes,ply,page.")] = (
        "kitti,nuscenes,ply,page"
    ),
    span: Annotated[
        str, typer.Option("--range", help="Only points from x,y,z up to x,y,z, metres: --range=-20,-20,-3,20,20,2")
    ] = "",
    max_points: Annotated[int, typer.Option(min=0, help="At most so many points a frame, evenly taken.")] = 0,
    sweeps: Annotated[int, typer.Option(min=0, help="Turns to merge; as in training by default.")] = 0,
    device: options.Device = "auto",
    offline: options.Offline = False,
    dry_run: options.DryRun = False,
) -> None:
    """Find the objects of every sweep; one bad file never stops the rest."""
    from pentad.point_clouds.infer import PredictRequest, parse_span, predict
    from pentad.point_clouds.predict import Limits

    limits = Limits(parse_span(span), max_points, sweeps)
    request = PredictRequest(tuple(inputs), model, split, outputs, limits, device, offline)
    raise typer.Exit(predict(request, batch, only_say=dry_run))


@app.command()
def view(
    path: Annotated[Path, typer.Argument(help="A sweep, a frame, a folder of them, or a case's folder of predict.")],
) -> None:
    """Show a sweep and its boxes in a window."""
    from pentad.point_clouds.viewer import view

    view(path)


@app.command()
def report(
    table: options.CaseTable,
    evaluations: options.Evaluations,
    out: options.Out,
    predictions: options.Predictions = None,
) -> None:
    """Put models side by side with paired differences, and write the page."""
    from pentad.point_clouds.report import report

    typer.echo(report(table, evaluations, out, predictions))
