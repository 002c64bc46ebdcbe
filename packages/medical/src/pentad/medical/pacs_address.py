"""Where an archive is and what it asks for: addresses and credentials as a user gives them, checked.

Addresses: ``dicom://AET@host:port`` (with ``?calling=AET`` where the archive must know our title) or the archive's
DICOMweb root, ``https://host/dicom-web``. Credentials stand in a file or in environment variables, never in an address.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pentad.core.errors import UsageError

USER, PASSWORD, TOKEN = "PENTAD_PACS_USER", "PENTAD_PACS_PASSWORD", "PENTAD_PACS_TOKEN"

_CALLING = "PENTAD"
_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")  # printable ASCII but for the backslash
_FORMS = "dicom://AET@host:port or https://host/dicom-web"


@dataclass(frozen=True)
class Address:
    """Where results go.

    Attributes:
        name: How records call it.
        host: Name or number of the machine.
        port: Port of a DICOM service; 0 for DICOMweb.
        called: Application entity title of the archive.
        calling: Ours.
        url: Root of a DICOMweb service.
    """

    name: str
    host: str
    port: int = 0
    called: str = ""
    calling: str = _CALLING
    url: str = ""


def parse_address(text: str) -> Address:
    """Return the address that a user typed.

    Raises:
        UsageError: It is none, or holds a password (PTD-581); it is not repeated then.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _no_address("it is no address") from None
    if parts.password is not None:
        raise _no_address("it holds a password, which the shell and the system's list of processes would keep")
    if parts.scheme in ("http", "https"):
        if parts.username is not None or parts.query or parts.fragment or not host:
            raise _no_address("a DICOMweb root has a host and a path alone")
        url = text.rstrip("/")
        return Address(url, host, url=url)
    if parts.scheme != "dicom":
        raise _no_address("it begins with neither dicom:// nor https://")
    query = parse_qs(parts.query, keep_blank_values=True)
    calling = query.pop("calling", [_CALLING])[-1]
    # urlsplit keeps the capitals of a user name, but not those of a host.
    called = parts.username or ""
    if not host or not port or parts.path.strip("/") or query:
        raise _no_address("it lacks a host or a port, or has more than those")
    for title in (called, calling):
        if not _TITLE.fullmatch(title):
            raise _no_address("an application entity title has 1 to 16 printable characters")
    return Address(f"dicom://{called}@{host}:{port}", host, port, called, calling)


def _no_address(problem: str) -> UsageError:
    return UsageError("PTD-581", problem, f"give {_FORMS}", "the archive's address")


@dataclass(frozen=True)
class Credentials:
    """What a DICOMweb service asks for; never printed.

    Attributes:
        user: Name, with a password.
        password: The password.
        token: A bearer token instead.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.token)


def read_credentials(file: Path | None) -> Credentials:
    """Return the credentials of a file, or of the environment where there is no file.

    Args:
        file: JSON with ``user`` and ``password``, or with ``token``; readable by its owner only.

    Raises:
        UsageError: The file cannot be read, others may read it, or it holds something else (PTD-582).
    """
    if file is None:
        return Credentials(*(os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN)))
    try:
        if file.stat().st_mode & 0o077:
            raise UsageError("PTD-582", "others may read the credentials", "take their rights: chmod 600", file)
        known = Credentials(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # the error's own words may quote the file
        known = Credentials()
    if not known or not all(isinstance(part, str) for part in (known.user, known.password, known.token)):
        remedy = 'write {"user": "…", "password": "…"} or {"token": "…"} into it'
        raise UsageError("PTD-582", "it holds no credentials that can be read", remedy, file)
    return known
