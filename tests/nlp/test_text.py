"""Offsets: whatever is read, spans lie on the original's whole characters."""

import itertools

import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pentad.nlp.text import Normalisation, normalise, sanitise, snap, split_words

PIECES = [
    "क्षि",
    "e\u0301",
    "👩‍👩‍👧",
    "🇮🇳",
    "שלום",
    "\u0000",
    "\u200f",
    "क\u093c",
    "ﬁ",
    "https://a.b/ç",
    "@नाव",
    "\ud800",
    "\r\n",
    "a\u200d",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join)


def borders(text):
    return {0, len(text), *(match.start() for match in regex.finditer(r"\X", text))}


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_hold_every_sign_once_and_begin_and_end_at_characters(text):
    text = sanitise(text)
    spans = split_words(text)
    assert all(end > start for start, end in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert {place for span in spans for place in span} <= borders(text)
    outside = "".join(
        text[a:b] for a, b in zip([0, *(e for _, e in spans)], [*(s for s, _ in spans), len(text)], strict=True)
    )
    assert not outside.strip()


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["none", "NFC", "NFKC"]), st.booleans())
def test_every_span_of_a_normalised_text_leads_to_whole_characters_of_the_original(text, form, masked):
    mapped = normalise(text, Normalisation(form, links=masked, mentions=masked))
    edges = borders(sanitise(text))
    places = [mapped.original(place, place + 1) for place in range(len(mapped.text))]
    assert {edge for span in places for edge in span} <= edges
    assert places == sorted(places)
    if mapped.text:
        assert mapped.original(0, len(mapped.text)) == (places[0][0], places[-1][1])


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.data())
def test_snapping_widens_to_characters_and_never_narrows(text, data):
    text = sanitise(text)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    low, high = snap(text, start, end)
    assert low <= start
    assert high >= end
    assert {low, high} <= borders(text)


def test_a_line_of_a_hundred_thousand_characters_keeps_its_offsets():
    text = "नमस्ते 👩‍👩‍👧 " * 7700
    spans = split_words(text)
    assert len(text) > 100_000
    assert {text[start:end] for start, end in spans} == {"नमस्ते", "👩‍👩‍👧"}


def test_vowel_signs_and_joiners_of_marathi_stay():
    text = "पुण्यात र\u094d\u200dया"
    assert normalise(text, Normalisation("NFC")).text == text


def test_links_and_user_names_are_replaced_and_lead_back():
    mapped = normalise("see @asha at https://example.org/x now", Normalisation(links=True, mentions=True))
    assert mapped.text == "see @USER at HTTPURL now"
    assert mapped.original(4, 9) == (4, 9)
    assert mapped.original(13, 20) == (13, 34)
