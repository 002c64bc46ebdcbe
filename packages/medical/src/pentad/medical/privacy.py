"""Names that say nothing about a patient: keyed hashes, with a key that stays on this machine."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pentad.core.cases import Rejection
from pentad.core.errors import UsageError, as_text

_KEY_BYTES = 32
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_UID = r"\d+(?:\.\d+){5,}"
_TIME = rf"{_YEAR}[-_. ]?{_MONTH}[-_. ]?{_DAY}(?:\d{{4}}|\d{{6}})?|{_DAY}[-_. ]?{_MONTH}[-_. ]?{_YEAR}"
_FORMS = re.compile(rf"(?<!\d)(?:{_UID}|{_TIME})(?!\d)")
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 6  # words of a name that are looked for as one
_SHORTEST = 3  # a word of one or two letters hides nobody and stands everywhere


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


def hidden(text: str, identifiers: Collection[str], key: bytes) -> str:
    """Return the text with every trace of a patient replaced by a pseudonym, so that equal traces stay equal.

    Hidden are UIDs and dates, which their form gives away, and words that `traces` lists, alone or one behind the
    other: ``DOE^JANE`` also hides ``Doe_Jane`` and ``jane-doe``.

    Args:
        text: A path, or a sentence with paths in it.
        identifiers: Result of `traces`.
        key: Key of the pseudonyms.
    """
    text = _FORMS.sub(lambda found: pseudonym(found[0], key), text)
    words = list(_WORD.finditer(text))
    parts, end, first = [], 0, 0
    while first < len(words):
        joined = ["".join(word[0].casefold() for word in words[first : first + n]) for n in range(_LONGEST, 0, -1)]
        size = next((_LONGEST - place for place, name in enumerate(joined) if name in identifiers), 0)
        size = min(size, len(words) - first)
        if size:
            last = words[first + size - 1]
            parts += [text[end : words[first].start()], pseudonym("".join(joined[-size]), key)]
            end = last.end()
        first += size or 1
    return "".join([*parts, text[end:]])


def traces(identifiers: Iterable[str]) -> frozenset[str]:
    """Return what `hidden` looks for: of every name and number its words, two of them joined, and all of them."""
    found: set[str] = set()
    for identifier in identifiers:
        words = [word[0].casefold() for word in _WORD.finditer(identifier)]
        found |= {*words, "".join(words), "".join(reversed(words))}
        found |= {one + other for one, other in itertools.permutations(words[:_LONGEST], 2)}
    return frozenset(word for word in found if len(word) >= _SHORTEST)


def hide_patients(
    rejections: Sequence[Rejection], others: Collection[str], identifiers: Iterable[str], key: bytes
) -> list[Rejection]:
    """Return the rejections with `hidden` applied to the names of files, wherever they stand.

    Args:
        rejections: As found.
        others: Names of files that a reason may name beside those of its own rejection.
        identifiers: Names and numbers of the patients.
        key: Key of the pseudonyms.
    """
    known = traces(identifiers)
    discreet = []
    for item in rejections:
        texts = {"where": item.where, "reason": item.reason}
        named = {*item.files, *(name for name in map(as_text, others) if name in item.reason)}
        # The longest first: a name may be the beginning of another. Words of the sentence itself are left alone.
        for name in sorted(named, key=len, reverse=True):
            texts = {place: text.replace(name, hidden(name, known, key)) for place, text in texts.items()}
        files = tuple(hidden(name, known, key) for name in item.files)
        discreet.append(item.model_copy(update={**texts, "files": files}))
    return discreet
