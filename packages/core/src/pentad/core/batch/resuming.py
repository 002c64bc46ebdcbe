"""Which cases of a run are done, by digests and never by a file's existence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pentad.core.batch.folder import CASES
from pentad.core.batch.journal import CaseRecord
from pentad.core.cases import Case, input_digest
from pentad.core.errors import CaseError
from pentad.core.files import digest_file

DONE = ""


def reasons_to_do(
    folder: Path,
    cases: Sequence[Case],
    records: Mapping[str, CaseRecord],
    identity: Mapping[str, str],
    keep_on: Callable[[], bool] = lambda: True,
) -> dict[str, str]:
    """Return case id to why it must be processed, or `DONE`.

    A case is done only if its record says so, the same identity made it, its input has the same content, and
    its result files are as they were written. A case that failed is tried again.

    Args:
        folder: The run's folder.
        cases: The cases asked for.
        records: The journal's records by case.
        identity: Digests of what would make the results now.
        keep_on: Asked before each case; once it is false, the remaining cases are left out of the answer.
    """
    reasons: dict[str, str] = {}
    with ThreadPoolExecutor(4) as threads:  # digests release the interpreter, and disks like company
        futures = {case.id: threads.submit(_reason, folder, case, records.get(case.id), identity) for case in cases}
        for name, future in futures.items():
            if not keep_on():
                threads.shutdown(cancel_futures=True)
                break
            reasons[name] = future.result()
    return reasons


def _reason(folder: Path, case: Case, record: CaseRecord | None, identity: Mapping[str, str]) -> str:
    if record is None:
        return "new"
    if record.status != "ok":
        return "failed before"
    if record.identity != dict(identity):
        return "other model, configuration or code"
    try:
        if input_digest(case) != record.input:
            return "the input changed"
    except CaseError:
        return "the input cannot be read"
    return DONE if files_match(folder / CASES / case.id, record.files) else "a result file changed or is missing"


def files_match(folder: Path, files: Mapping[str, str]) -> bool:
    """Return whether every file named has the digest named; others beside them do not matter."""
    try:
        return folder.is_dir() and all(digest_file(folder / name) == digest for name, digest in files.items())
    except OSError:
        return False
