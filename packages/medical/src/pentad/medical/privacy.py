"""Names that say nothing about a patient: keyed hashes, with a key that stays on this machine."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from pentad.core.errors import UsageError

_KEY_BYTES = 32


def default_key_file() -> Path:
    """Return the key's place in the user's configuration folder (``XDG_CONFIG_HOME``, else ``~/.config``)."""
    named = os.environ.get("XDG_CONFIG_HOME")
    return (Path(named) if named else Path.home() / ".config") / "pentad" / "pseudonym.key"


def load_key(path: Path | None = None) -> bytes:
    """Return the key of the pseudonyms; it is made at first use, readable by its owner only.

    Args:
        path: The key's file; None for the user's own.

    Raises:
        UsageError: It cannot be read or made (PTD-417), or holds no key (PTD-418).
    """
    try:
        path = path or default_key_file()
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "no home folder"
        problem = f"the key of the pseudonyms cannot be read or made ({reason})"
        raise UsageError("PTD-417", problem, "name a writable place with --key-file", path) from None
    if len(key) < _KEY_BYTES:
        problem = f"a key of {len(key)} bytes is too short to hide anything"
        raise UsageError("PTD-418", problem, f"give a file of at least {_KEY_BYTES} random bytes, or none", path)
    return key


def _make_key(path: Path) -> None:
    # A link to a finished file either takes the name or finds it taken: two first runs agree on one key.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES).encode() + b"\n")
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)


def pseudonym(identifier: str, key: bytes) -> str:
    """Return 12 hexadecimal digits that stand for an identifier: the head of its HMAC-SHA256 under ``key``."""
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:12]
