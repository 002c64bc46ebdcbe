"""The command ``pentad point-clouds models``: architectures, bundles, published checkpoints in, ONNX out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")


@app.command("list")
def list_models(json_lines: options.Json = False) -> None:
    """List the architectures."""
    import json

    from pentad.point_clouds.models import MODELS

    for name, (config, _) in MODELS.items():
        summary = (config.__doc__ or "").splitlines()[0]
        typer.echo(json.dumps({"name": name, "summary": summary}) if json_lines else f"{name:<14} {summary}")


@app.command("show")
def show_model(bundle: options.BundleFolder) -> None:
    """Show what a bundle says of itself as JSON: classes, settings, digest, licences of code, weights and data."""
    import json

    from pentad.core.bundle import read_manifest

    typer.echo(json.dumps(read_manifest(bundle), indent=2, ensure_ascii=False))


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the published FlatFormer's training code.")],
    out: options.NewBundle,
    classes: Annotated[str, typer.Option(help="Classes in the heatmap's order.")] = "car,pedestrian,cyclist",
    params: Annotated[Path | None, typer.Option(help="With grid, decode, networks where not Waymo's.")] = None,
    sweeps: Annotated[int, typer.Option(min=1, help="Turns that it was trained on.")] = 1,
    licence: options.Licence = "not stated",
    overwrite: options.Overwrite = False,
) -> None:
    """Turn a checkpoint into a bundle that predict takes; every tensor must fit, and no code is run."""
    from pentad.point_clouds.importing import ImportRequest, import_checkpoint

    names = tuple(name for name in classes.split(",") if name)
    typer.echo(import_checkpoint(ImportRequest(checkpoint, out, names, params, sweeps, licence, overwrite)))


@app.command("export")
def export_model(
    bundle: options.AnyBundle,
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    tolerance: options.Tolerance = 1e-4,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a bundle in another project's format; refused unless it gives the same numbers there."""
    from pentad.point_clouds.export import export

    typer.echo(export(bundle, kind, out, tolerance=tolerance, overwrite=overwrite))
