"""A command `pentad` that starts at once: a fork of a process that has imported a domain before.

A stage of a tiny pipeline works for a second and imports torch or MONAI for two to eight. Nothing but the imports is
shared: each call has its own process, working folder, environment and streams, and its own exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import coverage

CLIENT = """#!{python} -IS
import json, os, socket, sys
call = socket.socket(socket.AF_UNIX)
call.connect({address!r})
words = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(call, [b"."], [0, 1, 2])
call.sendall(json.dumps(words).encode())
call.shutdown(socket.SHUT_WR)
code = call.recv(1)
sys.exit(code[0] if code else "the command died")
"""


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 8


class _Call(socketserver.BaseRequestHandler):
    """One call of the command, in a process that was forked for it."""

    def handle(self) -> None:
        from pentad.core.cli import main

        _, streams, _, _ = socket.recv_fds(self.request, 1, 3)
        words = json.loads(b"".join(iter(lambda: self.request.recv(1 << 16), b"")))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(words["folder"])
        os.environ.clear()
        os.environ.update(words["environment"])
        sys.argv = ["pentad", *words["arguments"]]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        if measuring := coverage.Coverage.current():
            measuring.save()
        self.request.sendall(bytes([code]))


@contextlib.contextmanager
def imported(domain: str, folder: Path, seed: int = 0) -> Iterator[Path]:
    """Yield a folder with a `pentad` whose processes begin with a domain's modules imported.

    Args:
        domain: Such as 'remote_sensing'.
        folder: Empty, with a short path: it takes a socket.
        seed: Of the hash that decides in which order sets are walked, so that another seed is another process.
    """
    address, client = str(folder / "socket"), folder / "pentad"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    server = subprocess.Popen([sys.executable, __file__, domain, address], env=environment)
    try:
        while not Path(address).exists():
            assert server.poll() is None, f"the modules of {domain} cannot be imported"
            time.sleep(0.1)
        yield folder
    finally:
        server.terminate()
        server.wait()


def _serve(domain: str, address: str) -> None:
    for package in ("pentad.core", f"pentad.{domain}"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # keeps the memory shared
    with _Server(address, _Call) as server:
        server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
