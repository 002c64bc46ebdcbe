"""An Orthanc of one's own on 127.0.0.1: free ports, a folder for its store, ended by its process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TITLE = "ORTHANC"
PLUGINS = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """Addresses of a running Orthanc."""

    http: str
    dicom_port: int

    @property
    def dicom(self) -> str:
        return f"dicom://{TITLE}@127.0.0.1:{self.dicom_port}"

    @property
    def web(self) -> str:
        return f"{self.http}/dicom-web"

    def ask(self, path: str) -> Any:
        """Return what Orthanc's own interface says."""
        with urllib.request.urlopen(f"{self.http}{path}", timeout=10) as answer:
            return json.load(answer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run an Orthanc that stores below ``folder``; skip where Debian's packages are not installed."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGINS.is_file():
        pytest.skip("Orthanc is not installed; scripts/system_packages.sh installs it on Debian and Ubuntu")
    http, dicom = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(PLUGINS)],
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": TITLE,
        "DicomPort": dicom,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "OverwriteInstances": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    server = Orthanc(f"http://127.0.0.1:{http}", dicom)
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(server: Orthanc, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            server.ask("/system")
            return
        except OSError:
            assert process.poll() is None, "Orthanc ended at once"
            assert time.monotonic() < limit, "Orthanc does not answer"
            time.sleep(0.1)
