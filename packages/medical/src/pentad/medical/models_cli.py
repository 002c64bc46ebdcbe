"""The commands ``pentad medical models …``."""

from __future__ import annotations

from typing import Annotated

import typer

from pentad.core import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The models there are, and bundles of them.")


@app.command("export")
def export_model(
    bundle: Annotated[str, typer.Argument(help="Folder of a bundle, or OWNER/NAME on the hub.")],
    out: options.Out,
    kind: Annotated[str, typer.Option("--format", help="monai or onnx.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest error allowed, as a share of the largest logit.")
    ] = 1e-4,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
) -> None:
    """Write a bundle in another project's format; refused unless it gives the same numbers there."""
    from pentad.medical.export import export

    typer.echo(export(bundle, kind, out, tolerance=tolerance, overwrite=overwrite, offline=offline))
