"""The command ``pentad``: what every domain shares, and the installed domains found by entry point."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pentad.core.errors import PentadError, UsageError, nearest

# What a wrong option or argument raises; typer names only the more special ones.
_WrongCall: type[Exception] = typer.BadParameter.__mro__[1]


def _domains() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group="pentad.domains"))}


class _WithDomains(TyperGroup):
    """Core's own commands and one group for each installed domain, loaded when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_domains()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _domains().get(cmd_name)
        return typer.main.get_command(entry.load()) if entry else super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="pentad",
    cls=_WithDomains,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Published CNN-Transformer-Mamba hybrids, from raw files to results that open in the field's own tools.\n\n"
    "For instance: pentad medical predict STUDIES/ -o OUT --model BUNDLE",
)


@app.callback()
def _settings(
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for debugging.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log errors only.")] = False,
) -> None:
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    level = logging.ERROR if quiet else levels[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pentad").setLevel(logging.ERROR if quiet else min(level, logging.INFO))


@app.command()
def samples(
    root: Annotated[Path, typer.Argument(help="Folder to write into.")] = Path("data"),
) -> None:
    """Write the sample data of every installed domain (synthetic, generated from code)."""
    from pentad.core.samples import write_samples

    write_samples(root)


@app.command()
def parity(
    files: Annotated[list[Path], typer.Argument(help="Files of golden figures.")],
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
) -> None:
    """Compare our models and operators with golden figures of the published code."""
    from pentad.core.parity import check

    raise typer.Exit(check(files, dtype))


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of predict, all shards of one run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the joined run; must not exist.")],
) -> None:
    """Join the shards of a batch run to one run folder."""
    from pentad.core.batch import merge as join

    raise typer.Exit(join(runs, out))


@app.command()
def folds(
    table: Annotated[Path, typer.Argument(help="Case table (cases.jsonl).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that takes a case table a fold.")],
    count: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides which case is tested in which fold.")] = 0,
) -> None:
    """Cut a case table into folds: every case is tested once, groups stay together."""
    from pentad.core.folds import write_folds

    typer.echo(write_folds(table, out, count, seed))


@app.command()
def doctor() -> None:
    """Say what is installed, what is fast, what is slow and how to mend it."""
    from pentad.core.doctor import findings

    found = findings()
    width = max(len(name) for name, _ in found)
    for name, state in found:
        typer.echo(f"{name:<{width}}  {state}")


@app.command()
def results(
    pipeline: Annotated[Path, typer.Argument(help="Folder of a pipeline that has run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown file to write.")],
) -> None:
    """Write a pipeline's row of the results table from its metrics."""
    from pentad.core.results import write_row

    write_row(pipeline, out)


@app.command()
def plan(
    pipeline: Annotated[Path, typer.Argument(help="Folder of a pipeline, for instance pipelines/liver_seg.")],
) -> None:
    """Say which stages `dvc repro` would run and why; honest on a fresh clone, where `dvc repro --dry` stops."""
    from pentad.core.pipeline_plan import explain

    for stage, reason in explain(pipeline):
        typer.echo(f"{stage:<24} {reason}")


def main() -> None:
    """Run the command; every foreseen error is one sentence on stderr and its exit code."""
    try:
        _run(sys.argv[1:])
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None
    except PentadError as error:
        _end(str(error), error.exit_code)
    except _WrongCall as error:
        _end(*_wrong_call(error))
    except (KeyboardInterrupt, typer.Abort):
        _end("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away, as `| head` does
        raise SystemExit(0) from None
    except OSError as error:
        place = error.filename or "a file"
        _end(f"PTD-100 {place}: {error.strerror or error}; check the path, its rights and free space.", 2)
    except Exception as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
        _end(f"PTD-101 {problem}; this is our mistake: repeat with 'pentad -vv …' and send us the output.", 1)


def _run(arguments: list[str]) -> None:
    known = {*_domains(), *(command.name or command.callback.__name__ for command in app.registered_commands)}  # type: ignore[union-attr]
    first = next((word for word in arguments if not word.startswith("-")), "")
    if first and first not in known:
        raise UsageError(
            "PTD-200",
            f"'{first}' is neither a command nor an installed domain{nearest(first, known)}",
            f"use one of {', '.join(sorted(known))}, or install the domain with pip install pentad-{first}",
        )
    # Not `app()`: it prints wrong options in lines of its own and lets a closed pipe count as an error.
    command = typer.main.get_command(app)
    with command.make_context("pentad", arguments) as context:
        command.invoke(context)


def _wrong_call(error: Any) -> tuple[str, int]:
    """A sentence for a wrong option or argument, or the help where nothing was asked for; and the exit code."""
    text = error.format_message()
    if text.startswith("Usage:"):
        return text, 2
    path = error.ctx.command_path if error.ctx else "pentad"
    problem = " ".join(text.split()).rstrip(".")
    return str(UsageError("PTD-226", problem, f"see '{path} --help'", path)), 2


def _end(text: str, code: int) -> NoReturn:
    typer.echo(text, err=True)
    raise SystemExit(code) from None
