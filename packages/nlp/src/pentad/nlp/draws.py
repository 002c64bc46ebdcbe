"""Draws that repeat on every machine and with every version of Python: numbers from SHA-256 of a key and a count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of draws named by a key."""

    def __init__(self, *key: object) -> None:
        self._key, self._count = "/".join(map(str, key)), 0

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to below ``bound``."""
        self._count += 1
        digest = hashlib.sha256(f"{self._key}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % bound

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """Return true in so many of a hundred cases."""
        return self.below(100) < percent
