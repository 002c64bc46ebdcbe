"""The command ``pentad medical``: thin verbs over the stages, with nothing heavy imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options
from pentad.medical.models_cli import app as models_app

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Segment medical images.\n\nFor instance: pentad medical predict STUDIES/ -o OUT --model BUNDLE",
)
app.add_typer(models_app, name="models")

Credentials = Annotated[
    Path | None, typer.Option(help="JSON file with user and password, or token, for a DICOMweb archive.")
]
Model = Annotated[
    list[str],
    typer.Option(
        help="Bundle folder, or a baseline without weights (threshold); several bundles answer together.",
        show_default=False,
    ),
]


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(help="Raw data: the samples' layout, LiTS, MSD Task03 or image/label pairs.")],
    out: options.Out,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006  (typer reads the default, nothing changes it)
    dry_run: options.DryRun = False,
    overwrite: options.Overwrite = False,
    accept_refused: options.AcceptRefused = False,
) -> None:
    """Check raw images and labels and write the case table."""
    from pentad.core.config import load_params
    from pentad.medical.ingest import PrepareConfig, prepare

    config = load_params(params, "prepare", PrepareConfig, override)
    done = prepare(raw, out, config, dry_run=dry_run, overwrite=overwrite)
    typer.echo(done.text)
    raise typer.Exit(3 if done.refused and not accept_refused else 0)


@app.command()
def plan(
    table: options.CaseTable,
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan's file (plan.json).")],
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
) -> None:
    """Derive spacing, normalisation, patch and network from the training cases."""
    from pentad.medical.planning import write_plan

    typer.echo(write_plan(table, out, params, override))


@app.command()
def train(
    table: options.CaseTable,
    model: Annotated[str, typer.Option(help="Name of a model; see pentad medical models list.")],
    plan: Annotated[Path, typer.Option(help="The plan's file (plan.json).")],
    out: options.NewBundle,
    run: options.RunFolder,
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    resume: options.GoOn = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model and write its bundle."""
    from pentad.medical.train import TrainRequest, train

    request = TrainRequest(table, plan, model, out, run, params, tuple(override), resume, overwrite)
    typer.echo(train(request))


@app.command()
def evaluate(
    table: options.CaseTable,
    model: Model,
    out: options.Out,
    split: options.Split = "test",
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Score a model on labelled cases: a row a case, and intervals."""
    from pentad.medical.evaluate import EvaluateRequest, evaluate

    request = EvaluateRequest(table, split, ",".join(model), out, params, tuple(override), device, overwrite)
    text, failed = evaluate(request)
    typer.echo(text)
    raise typer.Exit(3 if failed else 0)


@app.command()
@options.of_batch_run
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Folders or files of DICOM or NIfTI, or a case table.")],
    model: Model,
    batch: options.Batch,
    split: options.Split = "",
    outputs: Annotated[str, typer.Option(help="What to write: any of nifti,seg,sr,page,pdf.")] = "nifti,seg,sr,page",
    params: Annotated[
        Path | None, typer.Option(help="A params.yaml whose prepare.select says which series of a study is taken.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key of the pseudonyms; one is made at first use.")] = None,
    send_to: Annotated[
        str,
        typer.Option("--return", help="Send DICOM results to dicom://AET@host:port or https://host/dicom-web."),
    ] = "",
    credentials: Credentials = None,
    device: options.Device = "auto",
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Average over mirrored windows; else as the bundle says."),
    ] = None,
    offline: options.Offline = False,
    dry_run: options.DryRun = False,
) -> None:
    """Segment every study below the inputs; one bad study never stops the rest."""
    from pentad.medical.infer import PredictRequest, predict

    request = PredictRequest(
        inputs=tuple(inputs),
        model=",".join(model),
        split=split,
        outputs=outputs,
        params=params,
        key_file=key_file,
        device=device,
        offline=offline,
        mirror=mirror,
        send_to=send_to,
        credentials=credentials,
    )
    raise typer.Exit(predict(request, batch, only_say=dry_run))


@app.command()
def send(
    run: Annotated[Path, typer.Argument(help="Run folder of predict.")],
    to: Annotated[str, typer.Option("--to", help="dicom://AET@host:port or https://host/dicom-web.")],
    credentials: Credentials = None,
    json_lines: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Send the DICOM results of a run to an archive; what it has got before is not sent again."""
    from pentad.core.batch import deliver_run
    from pentad.medical.pacs import archive

    raise typer.Exit(deliver_run(run, archive(to, credentials), quiet=quiet, json_lines=json_lines))


@app.command()
def report(
    table: options.CaseTable,
    evaluations: options.Evaluations,
    out: options.Out,
    predictions: options.Predictions = None,
    runs: options.Histories = None,
) -> None:
    """Put models side by side with paired differences, and write the page."""
    from pentad.medical.report import report

    typer.echo(report(table, evaluations, out, predictions=predictions, runs=runs))


@app.command()
def compare(
    table: options.CaseTable,
    evaluations: Annotated[Path, typer.Argument(help="Folder with <model>/<fold>/<seed>, each written by evaluate.")],
    costs: Annotated[Path, typer.Option(help="Folder with <model>.json, each written by measure.")],
    baseline: Annotated[str, typer.Option(help="The model that the others are compared with.")],
    out: options.Out,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
) -> None:
    """Compare models over folds and seeds: paired differences with intervals, and what each model costs."""
    from pentad.medical.comparison import CompareRequest, compare_models

    typer.echo(compare_models(CompareRequest(table, evaluations, costs, out, baseline, seed)))


@app.command()
def measure(
    model: Annotated[str, typer.Option(help="Name of a model; see pentad medical models list.")],
    plan: Annotated[Path, typer.Option(help="The plan's file (plan.json).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")],
    params: options.Params = Path("params.yaml"),
    override: options.Override = [],  # noqa: B006
) -> None:
    """Count a model's parameters and operations, and time its training step."""
    from pentad.medical.measure import measure_model

    typer.echo(measure_model(model, plan, out, params, override))
