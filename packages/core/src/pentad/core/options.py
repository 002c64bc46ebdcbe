"""Command-line options that mean the same in every domain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from pentad.core.batch import BatchOptions

    Batch: TypeAlias = BatchOptions
else:
    Batch = Any  # the batch runner is imported when it runs, not for --help

CaseTable = Annotated[Path, typer.Argument(help="Case table written by prepare (cases.jsonl).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if it is not there.")]
Params = Annotated[Path, typer.Option(help="The pipeline's params.yaml.")]
Override = Annotated[
    list[str], typer.Option("--set", help="Override a setting, for instance --set steps=100; repeatable.")
]
Model = Annotated[str, typer.Option(help="Bundle folder, or OWNER/NAME on the hub.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Split = Annotated[str, typer.Option(help="Only the cases of this split of a case table.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; load no weights, write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")]
Json = Annotated[bool, typer.Option("--json", help="Write events as JSON Lines to standard output.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the network for a model.")]

# Of prepare.
AcceptRefused = Annotated[
    bool, typer.Option("--accept-refused", help="Exit with 0, not 3, although some cases were refused.")
]

# Of train.
NewBundle = Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to write.")]
RunFolder = Annotated[Path, typer.Option(help="Folder for checkpoints and the history.")]
GoOn = Annotated[bool, typer.Option(help="Go on from the checkpoint in --run, if there is one.")]

# Of report.
Evaluations = Annotated[list[Path], typer.Argument(help="Folders written by evaluate, the model of interest first.")]
Predictions = Annotated[Path | None, typer.Option(help="Run folder of predict, to check what shipped.")]
Histories = Annotated[Path | None, typer.Option(help="Folder with the models' training histories.")]

# Of models.
AnyBundle = Annotated[str, typer.Argument(help="Folder of a bundle, or OWNER/NAME on the hub.")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder of a bundle.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write it as JSON, with settings and provenance.")]
Tolerance = Annotated[float, typer.Option(min=0, help="Largest error allowed, as a share of the largest output.")]
Licence = Annotated[str, typer.Option(help="Licence of the weights, in words.")]

# Of predict: what `pentad.core.batch.BatchOptions` takes beside --out, and what it is if it is not given.
_BATCH: dict[str, tuple[Any, Any]] = {
    "run": (Annotated[str, typer.Option(help="Name of the run's folder below --out; the time by default.")], ""),
    "resume": (Annotated[str, typer.Option(help="Go on with this run: only what is not done is done.")], ""),
    "overwrite": (Overwrite, False),
    "workers": (Annotated[int, typer.Option(min=1, help="Worker processes; each loads the model once.")], 1),
    "engine": (
        Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster (RAY_ADDRESS, or one here).")],
        "local",
    ),
    "shard": (
        Annotated[str, typer.Option(help="i/n: only the i-th of n parts; 'slurm' reads the job array's variables.")],
        "1/1",
    ),
    "strict": (Annotated[bool, typer.Option("--strict", help="A flagged case counts as failed.")], False),
    "max_failures": (Annotated[int, typer.Option(min=0, help="Stop after this many failed cases; 0 for no limit.")], 0),
    "case_timeout": (
        Annotated[float, typer.Option(min=0, help="Seconds after which a case fails; 0 for no limit.")],
        0.0,
    ),
    "json_lines": (Json, False),
    "quiet": (Quiet, False),
}


def of_batch_run(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of every batch run, which it takes together as its parameter ``batch``."""
    inputs, *own = (
        parameter for name, parameter in inspect.signature(verb, eval_str=True).parameters.items() if name != "batch"
    )
    out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Out)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in _BATCH.items()
    ]

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        from pentad.core.batch import BatchOptions

        batch = BatchOptions(**{name: given.pop(name) for name in ("out", *_BATCH)})
        verb(**given, batch=batch)

    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (inputs, out, *own, *shared)]
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return command
