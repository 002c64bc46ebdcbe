"""The page of one piece of a file: texts with what was found in them marked, the unsure ones first."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pentad.core.files import write_text
from pentad.core.report import PALETTE
from pentad.nlp.documents import Document
from pentad.nlp.predict import Entity, Prediction

MOST = 200
"""Documents on a page; the rest stands in predictions.jsonl."""

_LONGEST = 2000  # characters of a document that are shown

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
article{border-top:1px solid #8885;padding:.6rem 0}
mark{color:inherit;background:none;border-bottom:3px solid;padding:0 .1em}
mark small,header small{font-size:.7em;opacity:.8;margin-left:.3em}
.unsure header{border-left:.4rem solid #e69f00;padding-left:.5rem}
p{overflow-wrap:anywhere;white-space:pre-wrap;margin:.2rem 0}
"""


def highlight(text: str, found: Sequence[Entity], colours: Mapping[str, str]) -> str:
    """Return the text as HTML with its entities marked; every character of the text is escaped."""
    pieces, position = [], 0
    for entity in sorted(found, key=lambda entity: entity.start):
        pieces.append(html.escape(text[position : entity.start]))
        inside, label = html.escape(text[entity.start : entity.end]), html.escape(entity.label)
        colour = colours.get(entity.label, PALETTE[0])
        pieces.append(
            f'<mark style="border-color:{colour}" title="{label} {entity.score:.2f}"><bdi>{inside}</bdi>'
            f"<small>{label}</small></mark>"
        )
        position = entity.end
    return "".join([*pieces, html.escape(text[position:])])


def write_documents_page(
    path: Path, name: str, pairs: Sequence[tuple[Document, Prediction]], statement: Mapping[str, Any]
) -> None:
    """Write the page of a piece of a file.

    Args:
        path: The HTML file.
        name: The case's id.
        pairs: Documents with their predictions; the least sure `MOST` are shown.
        statement: What made them.
    """
    shown = sorted(pairs, key=lambda pair: (pair[1].confidence, pair[0].id))[:MOST]
    kinds = sorted({entity.label for _, one in shown for entity in one.found})
    colours = {kind: PALETTE[place % len(PALETTE)] for place, kind in enumerate(kinds)}
    body = "\n".join(_article(document, one, colours) for document, one in shown)
    said = "; ".join(f"{html.escape(str(key))} {html.escape(str(value))}" for key, value in statement.items())
    title = html.escape(name)
    write_text(
        path,
        f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{len(shown)} of {len(pairs)} documents, the least sure first. A model's suggestions: they "
        f"support a person's judgement and do not replace it.</p>\n{body}\n<footer><small>{said}</small></footer>"
        "</body></html>\n",
    )


def _article(document: Document, one: Prediction, colours: Mapping[str, str]) -> str:
    text, inside = document.text[:_LONGEST], [entity for entity in one.found if entity.end <= _LONGEST]
    more = "…" if len(document.text) > _LONGEST else ""
    label = f"{html.escape(one.label)} " if one.label else ""
    unsure = ' class="unsure"' if one.abstained else ""
    verdict = f"{label}{one.confidence:.2f}{' left to a person' if one.abstained else ''}"
    # A text's own direction marks must not turn the page around.
    return (
        f"<article{unsure}><header>{verdict}<small>{html.escape(document.id)}</small></header>"
        f'<p dir="auto">{highlight(text, inside, colours)}{more}</p></article>'
    )
