"""Command-line options that mean the same in every domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if it is not there.")]
Params = Annotated[Path, typer.Option(help="The pipeline's params.yaml.")]
Override = Annotated[
    list[str], typer.Option("--set", help="Override a setting, for instance --set steps=100; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Split = Annotated[str, typer.Option(help="Only the cases of this split of a case table.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; load no weights, write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
Run = Annotated[str, typer.Option("--run", help="Name of the run's folder below --out; the time by default.")]
Resume = Annotated[str, typer.Option("--resume", help="Go on with this run: only what is not done is done.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes; each loads the model once.")]
Engine = Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster (RAY_ADDRESS, or one here).")]
Shard = Annotated[str, typer.Option(help="i/n: only the i-th of n parts; 'slurm' reads the job array's variables.")]
Strict = Annotated[bool, typer.Option("--strict", help="A flagged case counts as failed.")]
MaxFailures = Annotated[int, typer.Option(min=0, help="Stop after this many failed cases; 0 for no limit.")]
CaseTimeout = Annotated[float, typer.Option(min=0, help="Seconds after which a case fails; 0 for no limit.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
Json = Annotated[bool, typer.Option("--json", help="Write events as JSON Lines to standard output.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")]
