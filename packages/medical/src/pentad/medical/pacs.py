"""Results sent to an archive (PACS): C-STORE by pynetdicom or STOW-RS by dicomweb-client, the extra ``pacs``.

An object keeps its UID from run to run, so an archive that gets it twice holds it once.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pentad.core.batch import Destination
from pentad.core.errors import CaseError, UsageError
from pentad.medical.pacs_address import Address, Credentials, parse_address, read_credentials

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STORED = "stored"

_LOCAL = ("localhost", "127.0.0.1", "::1")
_CONNECT_S, _ANSWER_S = 10.0, 60.0
_PAUSES_S = (1.0, 3.0)  # before the second and third attempt
_PATIENCE, _COOLING_S = 3, 300.0  # cases in a row without any answer, then so long without an attempt
_DUPLICATE = 0x0111
_AGAIN = "resume the run, or use pentad medical send"


def archive(address: str, credentials: Path | None = None, pauses: Sequence[float] = _PAUSES_S) -> Destination:
    """Return an archive as a destination for every ``.dcm`` of a case; nothing is connected yet.

    Args:
        address: As `pentad.medical.pacs_address` describes it.
        credentials: File with what a DICOMweb archive asks for; else the environment's variables.
        pauses: Seconds before each further attempt.

    Raises:
        UsageError: No such address (PTD-581), unfit credentials (PTD-582), or a library is missing (PTD-580).
    """
    where, known = parse_address(address), read_credentials(credentials)
    library = "dicomweb_client" if where.url else "pynetdicom"
    if importlib.util.find_spec(library) is None:
        remedy = "install it with pip install 'pentad-medical[pacs]'"
        raise UsageError("PTD-580", "the optional library for sending is not installed", remedy, library)
    for name in (library, "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their lines may name what is sent
    if known and where.url.startswith("http:") and where.host not in _LOCAL:
        raise UsageError("PTD-582", "credentials would travel unencrypted", "give an https:// address", where.name)
    transport = _Web(where, known) if where.url else _Service(where)
    return Destination(where.name, "*.dcm", Sender(transport, pauses).deliver)


class Unreachable(Exception):
    """The archive gave no answer; the text says why, without anything that the archive said."""


@dataclass(frozen=True)
class Answer:
    """What an archive said to one object: stored (empty problem), or why not and whether to try again."""

    text: str
    problem: str = ""
    again: bool = False


class Transport(Protocol):
    """One way to an archive."""

    address: Address

    def send(self, paths: Sequence[Path]) -> dict[str, Answer]:
        """Return the answer to each file by its name; raise `Unreachable` if the archive gives none."""


class Sender:
    """Sends a case's objects with a bounded number of attempts, and leaves an archive alone that is not there.

    Args:
        transport: The way to the archive.
        pauses: Seconds before each further attempt.
    """

    def __init__(self, transport: Transport, pauses: Sequence[float]) -> None:
        self._transport = transport
        self._pauses = pauses
        self._in_vain = 0
        self._not_before = 0.0

    def deliver(self, paths: list[Path], stopped: Callable[[], bool]) -> Mapping[str, str]:
        """Return for each file ``stored`` or a sentence with a code; see `pentad.core.batch.Destination`."""
        answers: dict[str, Answer] = {}
        cooling = time.monotonic() < self._not_before
        attempts = () if cooling else (0.0, *self._pauses)
        reason = f"it gave no answer to {_PATIENCE} cases in a row" if cooling else "the connection broke off"
        for pause in attempts:
            if not _wait(pause, stopped):
                reason = "the run was interrupted"
                break
            left = [path for path in paths if path.name not in answers or answers[path.name].again]
            try:
                answers |= self._transport.send(left)
                self._in_vain = 0
            except Unreachable as error:
                reason = str(error)
            if len(answers) == len(paths) and not any(answer.again for answer in answers.values()):
                break
        if not answers and not stopped():
            self._in_vain += bool(attempts)
            if attempts and self._in_vain >= _PATIENCE:
                self._not_before, self._in_vain = time.monotonic() + _COOLING_S, _PATIENCE - 1
        return {path.name: self._say(answers.get(path.name), reason) for path in paths}

    def _say(self, answer: Answer | None, reason: str) -> str:
        where = self._transport.address.name
        if answer is None:
            return str(CaseError("PTD-584", f"not sent: {reason}", f"see that the archive works, then {_AGAIN}", where))
        if answer.problem:
            return str(CaseError("PTD-585", answer.problem, f"ask those who run the archive, then {_AGAIN}", where))
        return answer.text


def _wait(seconds: float, stopped: Callable[[], bool]) -> bool:
    """Wait, and return whether to go on."""
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
    return not stopped()


class _Service:
    """A DICOM storage service (C-STORE)."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def send(self, paths: Sequence[Path]) -> dict[str, Answer]:
        """See `Transport`."""
        from pynetdicom import AE
        from pynetdicom.presentation import build_context

        kinds = {path.name: _kind(path) for path in paths}
        service = AE(ae_title=self.address.calling)
        service.connection_timeout = service.acse_timeout = _CONNECT_S
        service.dimse_timeout = service.network_timeout = _ANSWER_S
        contexts = [build_context(*kind) for kind in sorted(set(kinds.values()))]
        link = service.associate(self.address.host, self.address.port, contexts, ae_title=self.address.called)
        unwanted = Answer("", "the archive takes no objects of this kind")
        if not link.is_established and link.rejected_contexts:  # it answered, and took none of the kinds proposed
            return {path.name: unwanted for path in paths}
        if not link.is_established:
            refused = "the archive refuses the association: it may know other titles"
            raise Unreachable(refused if link.is_rejected else "no connection, or no DICOM service there")
        try:
            accepted = {str(context.abstract_syntax) for context in link.accepted_contexts}
            answers = {}
            for path in paths:
                if kinds[path.name][0] not in accepted:
                    answers[path.name] = unwanted
                elif (answer := _status(link.send_c_store(str(path)))) is not None:
                    answers[path.name] = answer
                else:
                    break  # the association has ended
            return answers
        finally:
            link.release()


def _kind(path: Path) -> tuple[str, str]:
    """SOP class and transfer syntax of a file."""
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _status(reply: Dataset) -> Answer | None:
    """What the status of a C-STORE means (DICOM PS3.4, table B.2-1); None if there was no answer."""
    if "Status" not in reply:
        return None
    status = int(reply.Status)
    if status in (0x0000, _DUPLICATE):
        return Answer(STORED)
    if status >> 12 == 0xB:
        return Answer(f"{STORED}, with the warning {status:04X}H")
    return Answer("", f"refused with the status {status:04X}H", again=status >> 8 == 0xA7)


class _Web:
    """A DICOMweb service (STOW-RS)."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.address = address
        self._credentials = credentials

    def send(self, paths: Sequence[Path]) -> dict[str, Answer]:
        """See `Transport`."""
        import pydicom

        codes: list[int] = []
        client = self._client(codes)
        answers: dict[str, Answer] = {}
        for path in paths:
            data = pydicom.dcmread(path)
            try:
                reply = client.store_instances([data])
            except OSError as error:  # all that requests raises
                if not codes or codes[-1] < 400:
                    if answers:
                        break
                    raise Unreachable(f"no connection ({type(error).__name__})") from None
                reply = None
            answers[path.name] = _outcome(codes[-1], reply)
        return answers

    def _client(self, codes: list[int]) -> Any:
        import requests
        from dicomweb_client import DICOMwebClient

        session = requests.Session()
        session.max_redirects = 0  # an object with a patient's name goes where it was sent, or nowhere
        known = self._credentials

        def bearer(request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {known.token}"
            return request

        if known:
            session.auth = bearer if known.token else (known.user, known.password)
        session.hooks["response"].append(lambda response, **_: codes.append(response.status_code))
        client = DICOMwebClient(
            self.address.url,
            session=session,
            headers={"Accept": "application/dicom+json"},
            timeout=(_CONNECT_S, _ANSWER_S),
            chunk_size=1 << 31,  # in one piece: many front ends refuse bodies of unknown length
        )
        client.set_http_retry_params(retry=False)  # `Sender` counts the attempts
        return client


def _outcome(code: int, reply: Dataset | None) -> Answer:
    """What a STOW-RS response to one object means (DICOM PS3.18, section 10.5.3)."""
    failures = [] if reply is None else list(reply.get("FailedSOPSequence") or [])
    reasons = [int(item.get("FailureReason") or 0) for item in failures]
    if reasons == [_DUPLICATE]:
        return Answer(STORED)
    if code == 200 and not failures:
        return Answer(STORED)
    if code == 202 and reply is not None and not failures:
        return Answer(f"{STORED}, with a warning")
    problem = {401: "the credentials are not accepted", 403: "these credentials may not store"}.get(code)
    detail = f", reason {reasons[0]:04X}H" if reasons else ""
    return Answer("", problem or f"refused with HTTP {code}{detail}", again=code in (408, 429, 502, 503, 504))
