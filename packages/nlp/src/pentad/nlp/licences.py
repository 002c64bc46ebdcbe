"""What a licence says of commercial use, as far as its name says it: what ``--commercial-only`` goes by."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from pentad.core.errors import ModelError

log = logging.getLogger(__name__)

UNKNOWN = "not stated"
_FORBIDS = re.compile(r"\bnc\b|non[- ]?commercial|(research|academic)([- ]use)?[- ]only", re.IGNORECASE)
_SAYS_NOTHING = re.compile(rf"^\s*$|{UNKNOWN}|\b(unknown|other)\b", re.IGNORECASE)


def is_hub_id(source: str) -> bool:
    """Return whether a name is of the form OWNER/NAME."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source))


def forbids_commerce(licence: str) -> bool:
    """Return whether the licence's own name forbids commercial use, as that of CC BY-NC-SA does."""
    return bool(_FORBIDS.search(licence))


def check_commerce(licences: Mapping[str, str], where: str | Path) -> None:
    """Refuse what may not be used commercially, and what does not say that it may.

    Args:
        licences: What is licensed (data, weights, encoder) to the name of its licence.
        where: File, folder or hub id for the error.

    Raises:
        ModelError: A licence forbids commercial use or is not stated.
    """
    for what, licence in licences.items():
        if forbids_commerce(licence) or _SAYS_NOTHING.search(licence):
            problem = f"--commercial-only, and the licence of its {what} is '{licence}'"
            raise ModelError("PTD-813", problem, "take another, or leave the option out for research", where)


def card_licence(source: str, *, offline: bool = False) -> str:
    """Return the licence that an encoder's model card (README.md) names; from the hub only the card is fetched.

    Args:
        source: Folder or hub id.
        offline: Never ask the network.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.repocard import metadata_load

    card = Path(source) / "README.md"
    try:
        if not Path(source).is_dir() and is_hub_id(source):
            card = Path(hf_hub_download(source, "README.md", local_files_only=offline))
        found = (metadata_load(card) or {}).get("license", UNKNOWN)
    except Exception:  # the client passes on what its transport and its YAML reader raise
        log.debug("no model card of %s", source, exc_info=True)
        return UNKNOWN
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
