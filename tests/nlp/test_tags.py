"""Tagging schemes: conversions are checked, and lose nothing but what plain tags cannot say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pentad.core.errors import CaseError
from pentad.nlp.tags import convert, entities, hyphenate, repair, to_tags


@st.composite
def sentences(draw):
    found, place = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 2))
        place = start + draw(st.integers(1, 3))
        found.append((start, place, draw(st.sampled_from(["A", "B-C"]))))
    return found, place + draw(st.integers(0, 2))


@given(sentences(), st.sampled_from(["iob1", "iob2", "bioes"]))
def test_entities_come_back_from_the_tags_of_every_scheme(sentence, scheme):
    found, length = sentence
    assert entities(to_tags(found, length, scheme), scheme) == found


@given(sentences())
def test_plain_tags_lose_only_the_border_between_touching_entities_of_one_type(sentence):
    found, length = sentence
    plain = to_tags(found, length, "plain")
    assert to_tags(entities(plain, "plain"), length, "plain") == plain


def test_iob1_begins_only_after_an_entity_of_the_same_type():
    assert convert(["I-A", "B-A", "O", "I-A", "I-B"], "iob1", "iob2") == ["B-A", "B-A", "O", "B-A", "B-B"]


def test_bilou_is_read_as_bioes():
    assert convert(["B-A", "L-A", "U-B"], "bioes", "iob2") == ["B-A", "I-A", "B-B"]


@pytest.mark.parametrize(
    ("tags", "scheme", "code"),
    [
        (["O", "I-A"], "iob2", "PTD-762"),
        (["B-A", "I-B"], "iob2", "PTD-762"),
        (["B-A", "O"], "bioes", "PTD-762"),
        (["E-A"], "iob2", "PTD-762"),
        (["NEP"], "iob2", "PTD-761"),
    ],
)
def test_tags_that_break_their_scheme_are_refused_in_one_sentence(tags, scheme, code):
    with pytest.raises(CaseError) as error:
        entities(tags, scheme, "f.conll, line 3")
    assert error.value.code == code
    assert "line 3" in str(error.value)


def test_repair_begins_an_entity_where_nothing_did():
    assert repair(["O", "I-A", "I-A", "I-B"]) == ["O", "B-A", "I-A", "B-B"]


def test_tags_without_hyphen_are_told_from_types_that_begin_with_b():
    assert [hyphenate(tag, ["ED", "NEP"]) for tag in ("BED", "IED", "BNEP", "O", "B-NEP")] == [
        "B-ED",
        "I-ED",
        "B-NEP",
        "O",
        "B-NEP",
    ]


def test_overlapping_entities_have_no_tags():
    with pytest.raises(CaseError, match="PTD-763"):
        to_tags([(0, 2, "A"), (1, 3, "A")], 3)
