"""Which stages of a pipeline would run, also where nothing has been made yet and DVC's own dry run stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pentad.core.errors import UsageError

_SHOWN = 3


def explain(folder: Path) -> list[tuple[str, str]]:
    """Return (stage, whether and why it would run) for every stage of the pipeline in ``folder``, in its order.

    DVC says which stages differ from their lock; a stage below one that would run would run too, and one whose input is
    not there and is made by no stage cannot.

    Raises:
        UsageError: There is no pipeline in the folder or no DVC repository around it, or DVC is not installed.
    """
    file = (folder / "dvc.yaml").resolve()
    if not file.is_file():
        raise UsageError(
            "PTD-224", "no dvc.yaml here", "name the folder of a pipeline, say pipelines/liver_seg", folder
        )
    try:
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo
    except ImportError:
        raise UsageError("PTD-225", "DVC is not installed", "install it with pip install dvc") from None
    try:
        found = Repo(str(file.parent))
    except NotDvcRepoError:
        problem = "no DVC repository holds this pipeline"
        raise UsageError("PTD-224", problem, "run dvc init at the root of your git repository", folder) from None
    with found as repo:
        every = list(repo.index.stages)
        stages = [stage for stage in every if Path(stage.path) == file]
        news = {key.rpartition(":")[2]: changes for key, changes in repo.status(targets=[str(file)]).items()}
        reasons: dict[str, str] = {}
        for stage in stages:
            above = [other.name for other in stages if other.name in reasons and _feeds(other, stage)]
            lacking = [dep for dep in stage.deps if not dep.exists and not _made(dep, every)]
            if lacking:
                names = ", ".join(str(dep) for dep in lacking[:_SHOWN])
                reasons[stage.name] = f"cannot run: {names} is not there (pentad samples or dvc pull brings data)"
            elif stage.name in news:
                reasons[stage.name] = _tell(news[stage.name])
            elif above:
                reasons[stage.name] = f"runs: after {', '.join(above)}"
        return [(stage.name, reasons.get(stage.name, "up to date")) for stage in stages]


def _feeds(stage: Any, other: Any) -> bool:
    needed = [Path(dep.fs_path) for dep in other.deps]
    return any(_overlap(Path(out.fs_path), dep) for out in stage.outs for dep in needed)


def _made(dep: Any, stages: list[Any]) -> bool:
    """Whether a stage with a command makes what is missing; data that are only tracked are made by none."""
    place = Path(dep.fs_path)
    return any(_overlap(Path(out.fs_path), place) for stage in stages if stage.cmd for out in stage.outs)


def _overlap(out: Path, dep: Path) -> bool:
    return out == dep or dep in out.parents or out in dep.parents


def _tell(changes: list[Any]) -> str:
    parts = list(_parts(changes))
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"runs: {'; '.join(parts[:_SHOWN])}{more}"


def _parts(changes: list[Any]) -> Iterator[str]:
    """Give each change in words: a file that is new, modified or deleted, or a parameter of a file."""
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for inner in change.values():
            for path, state in inner.items():
                if isinstance(state, Mapping):
                    yield from (f"{path}: {name} {how}" for name, how in state.items())
                else:
                    yield f"{path} {state}"
