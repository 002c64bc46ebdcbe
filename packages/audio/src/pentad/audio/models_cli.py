"""The command ``pentad audio models``: architectures, bundles, published checkpoints in, other formats out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")


@app.command("list")
def list_models(json_lines: options.Json = False) -> None:
    """List the architectures: their size, what they are, whether official checkpoints can be imported."""
    import json

    from pentad.audio.catalogue import architectures

    for entry in architectures():
        if json_lines:
            typer.echo(json.dumps(entry))
        else:
            typer.echo(f"{entry['name']:<8} {entry['parameters'] / 1e6:>6.2f} M  {entry['summary']}")


@app.command("show")
def show_model(
    bundle: options.BundleFolder,
    as_json: options.AsJson = False,
) -> None:
    """Show what a bundle is: classes, input, windows, parameters, licences of code, weights and data, digest."""
    import json

    from pentad.audio.catalogue import as_text, describe

    told = describe(bundle)
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else as_text(told))


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="Official checkpoint of AST, HTS-AT or PaSST.")],
    model: Annotated[str, typer.Option(help="Its architecture: ast, hts_at or passt.")],
    out: options.NewBundle,
    classes: Annotated[Path | None, typer.Option(help="One class a line, in the checkpoint's order.")] = None,
    override: Annotated[
        list[str], typer.Option("--set", help="What the tensors do not tell: --set strides=[10,10]; repeatable.")
    ] = [],  # noqa: B006  (typer reads the default, nothing changes it)
    entry: Annotated[str, typer.Option(help="Where the tensors lie in the file; the official place by default.")] = "",
    overwrite: options.Overwrite = False,
) -> None:
    """Make a bundle of an official checkpoint; nothing in it is executed."""
    from pentad.audio.imports import ImportRequest, import_checkpoint

    request = ImportRequest(checkpoint, model, out, classes, tuple(override), entry, overwrite)
    typer.echo(import_checkpoint(request))


@app.command("export")
def export_model(
    bundle: options.AnyBundle,
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="transformers (of AST) or onnx.")],
    tolerance: options.Tolerance = 1e-4,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
) -> None:
    """Write a bundle as a folder for transformers or as ONNX; refused unless it gives the same numbers there."""
    from pentad.audio.export import export

    typer.echo(export(bundle, kind, out, tolerance=tolerance, overwrite=overwrite, offline=offline))
