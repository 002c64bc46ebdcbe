"""Write results as one HTML page that needs no other file: tables, figures, notices and where it all comes from.

The page reads on a screen, in a dark room and on paper, loads nothing, runs no script, and has the same bytes
whenever it is written from the same content. Every string is escaped; figures come from matplotlib alone.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import jinja2
import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure as Drawing
from matplotlib.legend import Legend

from pentad.core.files import write_text
from pentad.core.metrics import Interval

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# Okabe and Ito's colours, told apart by colour-blind readers and on both a white and a black ground.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Link:
    """A table cell that leads to another page.

    Attributes:
        text: What is shown.
        href: Relative path, or an address beginning with http or https.
    """

    text: str
    href: str

    def __post_init__(self) -> None:
        """Refuse addresses that could run code."""
        if urlsplit(self.href).scheme not in ("", "http", "https"):
            raise ValueError(f"a link leads to a relative path or a web address, not {self.href!r}")


Cell = str | int | float | Interval | Link | None


@dataclass(frozen=True)
class Text:
    """A heading and paragraphs, either of which may be missing."""

    heading: str = ""
    paragraphs: Sequence[str] = ()


@dataclass(frozen=True)
class Notice:
    """A framed remark that nobody overlooks."""

    title: str
    text: str


SYNTHETIC = Notice(
    "Synthetic data",
    "Everything on this page was computed from generated data. It shows that the pipeline works; it says nothing "
    "about how well a model does on real data, and must not be quoted as such.",
)


@dataclass(frozen=True)
class Table:
    """A table; columns that hold only numbers stand flush right.

    Attributes:
        columns: Headings.
        rows: One cell a column. Floats and intervals are shown in three significant digits, None and NaN as a
            dash.
        caption: What the table shows.
        note: Small print below it, such as the meaning of n.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure.

    Attributes:
        drawing: The figure; its black becomes the page's ink, so that it reads on a dark ground too.
        alt: What it shows, in words, for those who do not see it.
        caption: Line below it.
    """

    drawing: Drawing
    alt: str
    caption: str = ""


Block = Text | Notice | Table | Figure


def write_page(
    path: Path, title: str, blocks: Sequence[Block], provenance: Mapping[str, Any], *, subtitle: str = ""
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file.
        title: Heading of the page.
        blocks: Its parts from top to bottom.
        provenance: What the footer states, as from `pentad.core.run.provenance`; inner mappings are flattened.
        subtitle: A line below the heading.
    """
    write_text(path, render_page(title, blocks, provenance, subtitle=subtitle))


def render_page(title: str, blocks: Sequence[Block], provenance: Mapping[str, Any], *, subtitle: str = "") -> str:
    """Return the page that `write_page` writes."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        subtitle=subtitle,
        blocks=[_prepare(block, number) for number, block in enumerate(blocks, 1)],
        provenance=list(_flatten(provenance)),
    )


def style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws in the manner of the page: use it with ``with``."""
    return mpl.rc_context(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.size": 10,
            "legend.frameon": False,
        }
    )


def draw_intervals(intervals: Mapping[str, Interval], label: str, *, width: float = 6.5) -> Drawing:
    """Return a figure with one line a name: the value as a dot, its interval as a bar.

    Args:
        intervals: Name to interval, drawn from top to bottom; those without a value leave an empty line.
        label: What the horizontal axis measures, with its unit.
        width: Width in inches.
    """
    with style():
        drawing = Drawing(figsize=(width, 0.7 + 0.32 * len(intervals)), layout="constrained")
        axes = drawing.subplots()
        for place, interval in enumerate(intervals.values()):
            axes.plot([interval.low, interval.high], [place, place], color=PALETTE[0], linewidth=2.5, alpha=0.5)
            axes.plot([interval.value], [place], "o", color=PALETTE[0])
        axes.set_yticks(range(len(intervals)), list(intervals))
        axes.set_ylim(len(intervals) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
    return drawing


def _prepare(block: Block, number: int) -> dict[str, Any]:
    """What the template shows of a block."""
    match block:
        case Text():
            return {"kind": "text", "heading": block.heading, "paragraphs": block.paragraphs}
        case Notice():
            return {"kind": "notice", "title": block.title, "text": block.text}
        case Figure():
            return {"kind": "figure", "svg": _svg(block, f"f{number}-"), "caption": block.caption}
        case Table():
            return _prepare_table(block)


def _prepare_table(table: Table) -> dict[str, Any]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(table.columns)} columns")
    numeric = [
        all(isinstance(cell, int | float | Interval | None) for cell in cells)
        and any(cell is not None for cell in cells)
        for cells in (zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns))
    ]
    rows = [
        [
            {"text": _show(cell), "numeric": right, "href": cell.href if isinstance(cell, Link) else ""}
            for cell, right in zip(row, numeric, strict=True)
        ]
        for row in table.rows
    ]
    columns = list(zip(table.columns, numeric, strict=True))
    return {"kind": "table", "columns": columns, "rows": rows, "caption": table.caption, "note": table.note}


def _show(cell: Cell) -> str:
    match cell:
        case None:
            return "—"
        case Link():
            return cell.text
        case float():
            return Interval(cell, math.nan, math.nan, 1).format()
        case _:
            return str(cell)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name} / ")
        else:
            yield f"{prefix}{name}", str(value)


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element whose ids begin with ``prefix``, so that several stand on one page."""
    # A legend's white box would stay white on a dark page.
    for legend in figure.drawing.findobj(Legend):
        legend.set_frame_on(False)
    stream = io.StringIO()
    # The salt makes matplotlib's ids repeat; text stays text, to be searched, copied and read aloud.
    with mpl.rc_context({"svg.hashsalt": "pentad", "svg.fonttype": "none"}):
        figure.drawing.savefig(stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet would hold for the whole page, and the metadata name matplotlib's version.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, _own(name, value, prefix))
    root.set("role", "img")
    root.set("aria-label", figure.alt)
    return ElementTree.tostring(root, encoding="unicode")


def _own(name: str, value: str, prefix: str) -> str:
    """An attribute with its ids prefixed and black replaced by the page's ink."""
    if name == "id":
        return prefix + value
    if name in ("href", f"{{{_XLINK}}}href"):
        return re.sub(r"^#", f"#{prefix}", value)
    return value.replace("url(#", f"url(#{prefix}").replace("#000000", "currentColor")
