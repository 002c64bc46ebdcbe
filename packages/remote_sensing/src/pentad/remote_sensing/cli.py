"""The command ``pentad remote-sensing``: thin verbs over the stages, nothing heavy imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find what changed between two images of one place.\n\n"
    "For instance: pentad remote-sensing predict before.tif after.tif -o OUT --model BUNDLE",
)

Table = Annotated[Path, typer.Argument(help="Case table written by prepare (cases.jsonl).")]
Model = Annotated[str, typer.Option(help="Bundle folder, or the name of a baseline without weights (differencing).")]


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(help="Pairs as LEVIR-CD, WHU-CD, SYSU-CD, SECOND, xBD or the samples.")],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: Annotated[
        bool, typer.Option("--accept-refused", help="Exit with 0, not 3, although some pairs were refused.")
    ] = False,
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
    table: Table,
    model: Annotated[str, typer.Option(help="mamba_bcd or fc_siam_diff.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to write.")],
    run: Annotated[Path, typer.Option(help="Folder for checkpoints and the history.")],
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --run, if there is one.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model and write its bundle."""
    from pentad.remote_sensing.train import TrainRequest, train

    typer.echo(train(TrainRequest(table, model, out, run, params, tuple(override), resume, overwrite)))


@app.command()
def evaluate(
    table: Table,
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
