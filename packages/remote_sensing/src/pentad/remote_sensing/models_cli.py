"""The command ``pentad remote-sensing models``: architectures, bundles, published checkpoints in, ONNX out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")


@app.command("list")
def list_models(json_lines: options.Json = False) -> None:
    """List the architectures: for which tasks they are and how large."""
    import json

    from pentad.remote_sensing.catalogue import architectures

    for entry in architectures():
        size = f"{entry['parameters'] / 1e6:>6.2f} M"
        words = f"{entry['name']:<14} {','.join(entry['tasks']):<12} {size}  {entry['summary']}"
        typer.echo(json.dumps(entry) if json_lines else words)


@app.command("show")
def show_model(
    bundle: options.BundleFolder,
    as_json: options.AsJson = False,
) -> None:
    """Show what a bundle is: task, maps, classes, input, licences of code, weights and data, parameters, digest."""
    import json

    from pentad.remote_sensing.catalogue import as_text, describe

    told = describe(bundle)
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else as_text(told))


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="Weights of the published code, .pth or .safetensors.")],
    out: options.NewBundle,
    side: Annotated[int, typer.Option(min=32, help="Rows and columns of the windows to predict with.")] = 256,
    licence: options.Licence = "not stated",
    overwrite: options.Overwrite = False,
) -> None:
    """Turn a published checkpoint into a bundle that predict takes; every tensor must fit, and no code is run."""
    from pentad.remote_sensing.importing import ImportRequest, import_checkpoint

    typer.echo(import_checkpoint(ImportRequest(checkpoint, out, side, licence, overwrite)))


@app.command("export")
def export_model(
    bundle: options.AnyBundle,
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    side: Annotated[int, typer.Option(min=0, help="Rows and columns of the window; 0 takes the bundle's own.")] = 0,
    tolerance: options.Tolerance = 1e-4,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a bundle in another project's format; refused unless it gives the same numbers there."""
    from pentad.remote_sensing.export import export

    typer.echo(export(bundle, kind, out, side=side, tolerance=tolerance, overwrite=overwrite))
