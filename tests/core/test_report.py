from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure as Drawing

from pentad.core.metrics import Interval
from pentad.core.report import SYNTHETIC, Figure, Link, Notice, Table, Text, draw_intervals, render_page, write_page

SCRIPT = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link"}


class Elements(HTMLParser):
    """All elements of a page with their attributes, checking that each is closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]


def drawing(label="slices"):
    figure = Drawing(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0.2, 0.9], label=label)
    axes.set_xlabel(label)
    axes.imshow([[0, 1], [1, 0]], extent=(0, 1, 0, 1))
    axes.legend()
    return figure


@pytest.fixture
def blocks():
    return [
        SYNTHETIC,
        Text("Results", ["Two models on six cases.", "Higher is better."]),
        Table(
            ["case", "Dice", "lesions", "page"],
            [
                ["a", Interval(0.95, 0.93, 0.97, 6), 3, Link("open", "cases/a/page.html")],
                ["b", math.nan, None, Link("open", "cases/b/page.html")],
            ],
            caption="Dice for each case",
            note="n = 6",
        ),
        Figure(drawing(), "Dice rises from 0.2 to 0.9", "Dice over slices"),
        Figure(drawing(), "The same again"),
    ]


PROVENANCE = {"code": {"pentad-core": "0.1.0", "source": "abc123"}, "seed": 7}


def test_the_page_is_well_formed_and_says_what_it_was_given(blocks):
    page = Elements(render_page("Liver segmentation", blocks, PROVENANCE, subtitle="Held-out cases"))
    for words in ("Liver segmentation", "Held-out cases", "Two models on six cases.", "Dice for each case", "n = 6"):
        assert words in page.text


def test_two_writes_have_the_same_bytes(blocks, tmp_path):
    write_page(tmp_path / "first.html", "Title", blocks, PROVENANCE)
    again = [
        block if not isinstance(block, Figure) else Figure(drawing(), block.alt, block.caption) for block in blocks
    ]
    write_page(tmp_path / "second.html", "Title", again, PROVENANCE)
    write_page(tmp_path / "third.html", "Title", again, PROVENANCE)
    first, second, third = ((tmp_path / f"{name}.html").read_bytes() for name in ("first", "second", "third"))
    assert first == second == third


def test_the_page_loads_nothing_from_elsewhere(blocks):
    page = render_page("Title", blocks, PROVENANCE)
    elements = Elements(page)
    sources = elements.values("src") + elements.values("href") + elements.values("xlink:href")
    outside = [source for source in sources if not source.startswith(("data:", "#", "cases/"))]
    assert outside == []
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements.found}
    assert "@import" not in page


def test_a_script_in_any_string_stays_text():
    blocks = [
        Notice(SCRIPT, SCRIPT),
        Text(SCRIPT, [SCRIPT]),
        Table([SCRIPT, "link"], [[SCRIPT, Link(SCRIPT, f'x"{SCRIPT}')]], SCRIPT, SCRIPT),
        Figure(drawing(SCRIPT), f'"{SCRIPT}', SCRIPT),
    ]
    page = render_page(SCRIPT, blocks, {SCRIPT: SCRIPT, "inner": {SCRIPT: SCRIPT}}, subtitle=SCRIPT)
    elements = Elements(page)
    assert "<script" not in page
    assert "script" not in {tag for tag, _ in elements.found}
    assert elements.text.count(SCRIPT) == 19


def test_a_link_that_runs_code_is_refused():
    with pytest.raises(ValueError, match="relative path"):
        Link("open", "javascript:alert(1)")


def test_numbers_stand_flush_right_and_words_do_not(blocks):
    elements = Elements(render_page("Title", blocks, PROVENANCE))
    classes = [attributes.get("class", "") for tag, attributes in elements.found if tag in ("th", "td")]
    assert classes == ["", "number", "number", ""] * 3


def test_intervals_and_missing_numbers_are_readable(blocks):
    page = render_page("Title", blocks, PROVENANCE)
    assert '<td class="number">0.950 [0.930, 0.970]</td>' in page
    assert page.count('<td class="number">—</td>') == 2


def test_each_figure_is_inline_and_has_words_for_those_who_do_not_see_it(blocks):
    elements = Elements(render_page("Title", blocks, PROVENANCE))
    drawings = [attributes for tag, attributes in elements.found if tag == "svg"]
    assert [(figure["role"], figure["aria-label"]) for figure in drawings] == [
        ("img", "Dice rises from 0.2 to 0.9"),
        ("img", "The same again"),
    ]
    assert "Dice over slices" in elements.text


def test_figures_on_one_page_share_no_id_and_refer_to_their_own(blocks):
    page = render_page("Title", blocks, PROVENANCE)
    ids = Elements(page).values("id")
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert len(ids) == len(set(ids)) > 10
    assert used
    assert used <= set(ids)


def test_a_figure_takes_the_ink_of_the_page(blocks):
    page = render_page("Title", blocks, PROVENANCE)
    assert "prefers-color-scheme: dark" in page
    assert "stroke: currentColor" in page
    assert "#000000" not in page
    assert "#ffffff" not in page


def test_the_footer_states_where_the_page_comes_from(blocks):
    page = render_page("Title", blocks, PROVENANCE)
    assert "<dt>code / source</dt><dd>abc123</dd>" in page
    assert "<dt>seed</dt><dd>7</dd>" in page
    assert "<footer>" not in render_page("Title", blocks, {})


def test_synthetic_data_is_announced_only_when_asked(blocks):
    assert "Synthetic data" in render_page("Title", blocks, {})
    assert "Synthetic data" not in render_page("Title", blocks[1:], {})


def test_an_empty_table_and_an_empty_text_leave_a_page():
    page = render_page("Title", [Table(["case", "Dice"], []), Text()], {})
    Elements(page)  # well-formed, or it raises
    assert "Dice" in page


def test_a_row_of_another_length_than_the_heading_is_a_mistake():
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        render_page("Title", [Table(["case", "Dice"], [["a"]])], {})


def test_intervals_are_drawn_from_top_to_bottom_at_their_values():
    intervals = {"U-Mamba": Interval(0.9, 0.8, 0.95, 6), "none": Interval(math.nan, math.nan, math.nan, 0)}
    (axes,) = draw_intervals(intervals, "Dice").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["U-Mamba", "none"]
    assert list(axes.lines[0].get_xdata()) == [0.8, 0.95]
    assert axes.yaxis_inverted()
