"""The command ``pentad medical models``: architectures, bundles, published checkpoints in, other formats out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")


@app.command("list")
def list_models(json_lines: options.Json = False) -> None:
    """List the architectures: what they take, how large they are, where weights come from."""
    import json

    from pentad.medical.catalogue import architectures

    for entry in architectures():
        if json_lines:
            typer.echo(json.dumps(entry))
        else:
            typer.echo(
                f"{entry['name']:<12} {entry['axes']:<8} {entry['parameters'] / 1e6:>6.2f} M  {entry['summary']}"
            )


@app.command("show")
def show_model(
    bundle: options.BundleFolder,
    as_json: options.AsJson = False,
) -> None:
    """Show what a bundle is: task, classes, input, licences of code, weights and data, parameters, digest."""
    import json

    from pentad.medical.catalogue import as_text, describe

    told = describe(bundle)
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else as_text(told))


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="Weights of the published code, .pth or .safetensors.")],
    architecture: Annotated[str, typer.Option(help="Name of a model; see pentad medical models list.")],
    out: options.NewBundle,
    classes: Annotated[str, typer.Option(help="Names of the classes from 1 upwards, separated by commas.")] = "",
    fusion: Annotated[
        str, typer.Option(help="HiFormer: dropped (published code since October 2022), release_2022_07 or fused.")
    ] = "",
    configuration: Annotated[str, typer.Option(help="U-Mamba: configuration of plans.json.")] = "",
    settings: Annotated[
        Path | None, typer.Option(help="JSON of a bundle's settings, where slices were not prepared as Synapse's.")
    ] = None,
    licence: options.Licence = "not stated",
    overwrite: options.Overwrite = False,
) -> None:
    """Turn a published checkpoint into a bundle that predict takes; every tensor must fit, and no code is run."""
    from pentad.medical.importing import ImportRequest, import_checkpoint

    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    request = ImportRequest(
        checkpoint=checkpoint,
        architecture=architecture,
        out=out,
        classes=names,
        fusion=fusion,
        configuration=configuration,
        settings=settings,
        licence=licence,
        overwrite=overwrite,
    )
    typer.echo(import_checkpoint(request))


@app.command("export")
def export_model(
    bundle: options.AnyBundle,
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="monai or onnx.")],
    tolerance: options.Tolerance = 1e-4,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
) -> None:
    """Write a bundle in another project's format; refused unless it gives the same numbers there."""
    from pentad.medical.export import export

    typer.echo(export(bundle, kind, out, tolerance=tolerance, overwrite=overwrite, offline=offline))
