"""Names of what a segmented case leaves, known without what it takes to make it."""

from __future__ import annotations

from pentad.core.errors import UsageError, nearest

USE = "research use only, not a medical device"
CARD = "model_card.html"

FILES = {"nifti": "label.nii.gz", "seg": "seg.dcm", "sr": "sr.dcm", "page": "page.html", "pdf": "page.pdf"}
"""Name of each output's file."""

DEFAULT = ("nifti", "seg", "sr", "page")
"""Outputs that are written unless others are asked for."""


def wanted(outputs: str) -> tuple[str, ...]:
    """Return the outputs that a comma-separated list asks for, in the order of writing.

    Raises:
        UsageError: One is not known (PTD-297), or a report is asked for without the segmentation it speaks of
            (PTD-556).
    """
    asked = [part.strip() for part in outputs.split(",") if part.strip()]
    for name in asked:
        if name not in FILES:
            problem = f"'{name}' is no output{nearest(name, FILES)}"
            raise UsageError("PTD-297", problem, f"give any of {', '.join(FILES)} to --outputs")
    if "sr" in asked and "seg" not in asked:
        raise UsageError("PTD-556", "a report (sr) speaks of a segmentation", "add seg to --outputs")
    return tuple(name for name in FILES if name in asked)
