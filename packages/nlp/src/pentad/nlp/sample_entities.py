"""A small grammar of Marathi and English sentences with named entities, all names invented."""

from __future__ import annotations

from collections.abc import Mapping

from pentad.nlp.draws import Draws

KINDS = ("NEP", "NEL", "NEO", "NEM", "NETI", "NED", "ED")

Sentence = list[tuple[str, str]]
"""Words with their IOB2 tags."""

_SYLLABLES = "का मो री सु ने ला वी पा दि शे तू गो ना मा रू टे जि भा को हे यु बी सा वा".split()
_LATIN = "ka mo ri su ne la vi pa di she tu go na ma ru te ji bha ko he yu bi sa va".split()

# A sentence with an unmarked name: it means a person, a place or a company by its verb alone, which stands last.
_LAST = {
    "NEP": ["हसले", "म्हणाले", "झोपले", "रडले", "धावले"],
    "NEL": ["बुडाले", "ओसाड पडले", "जलमय झाले", "वसले", "फुलले"],
    "NEO": ["दिवाळखोर झाले", "नफ्यात आले", "विकले गेले", "बंद पडले", "भरती करू लागले"],
}
_LAST_ENGLISH = {
    "NEP": ["fell asleep", "laughed aloud", "caught a cold", "got married"],
    "NEL": ["was flooded", "lost its bridge", "was snowed in", "got a new road"],
    "NEO": ["went bankrupt", "paid a dividend", "hired staff", "was taken over"],
}
_MIDDLE = ["काल", "पुन्हा एकदा", "अचानक", "गेल्या आठवड्यात", "हळूहळू", "सगळ्यांच्या देखत", "शेवटी", "नेहमीप्रमाणे", "खूप उशिरा"]
_MIDDLE_ENGLISH = [
    "last week",
    "once again",
    "quite suddenly",
    "to our surprise",
    "in the end",
    "as always",
    "rather late",
]

_MONTHS = "जानेवारी फेब्रुवारी मार्च एप्रिल मे जून जुलै ऑगस्ट".split()
_MONTHS_ENGLISH = "January February March April May June July August".split()
_UNITS = "किलो मीटर लिटर रुपये टक्के एकर".split()
_UNITS_ENGLISH = "kilograms metres litres rupees percent acres".split()
_POSTS = ["अध्यक्ष", "सरपंच", "मुख्य अभियंता", "सचिव", "मुख्याध्यापक"]
_POSTS_ENGLISH = ["president", "mayor", "chief engineer", "secretary", "headmaster"]
_THINGS = "तांदूळ दूध रस्ता पूल पुस्तक विहीर".split()
_THINGS_ENGLISH = "rice milk road bridge book well".split()

# Slots: a capital letter and what fills it; the rest are plain words.
_FRAMES = [
    "{NEP:title} यांनी {NED} रोजी {NEL:town} येथे {THING} पाहिला .",
    "{NEL:town} येथील {ED} {NEP:title} {NETI} आले .",
    "{NEO:society} ने {NEM} {THING} {NEL:town} ला दिले .",
    "{NED} रोजी {NETI} {THING} बंद होता .",
    "{ED} म्हणून {NEP:title} यांची निवड {NEO:society} ने केली .",
    "{THING} साठी {NEM} लागतात , असे {ED} म्हणतात .",
    "आज {THING} मिळाले नाही आणि {THING} ही नाही .",
]
_FRAMES_ENGLISH = [
    "{NEP:title} saw the {THING} in {NEL:town} on {NED} .",
    "the {ED} of {NEL:town} , {NEP:title} , came {NETI} .",
    "{NEO:society} gave {NEM} of {THING} to {NEL:town} .",
    "on {NED} the {THING} was closed {NETI} .",
    "{NEO:society} elected {NEP:title} as {ED} .",
    "there was no {THING} and no {THING} today .",
]


def sentences(sizes: Mapping[str, int]) -> dict[str, list[Sentence]]:
    """Return so many sentences for each split, none of them twice."""
    seen: set[str] = set()
    made: dict[str, list[Sentence]] = {}
    for split, size in sizes.items():
        draw, made[split] = Draws("entities", split), []
        while len(made[split]) < size:
            sentence = _sentence(draw)
            words = " ".join(word for word, _ in sentence)
            if words not in seen:
                seen.add(words)
                made[split].append(sentence)
    return made


def _sentence(draw: Draws) -> Sentence:
    english = draw.chance(25)
    if draw.chance(50):
        return _unmarked(draw, english)
    return _filled(draw, draw.choice(_FRAMES_ENGLISH if english else _FRAMES), english)


def _unmarked(draw: Draws, english: bool) -> Sentence:
    kind = draw.choice(("NEP", "NEL", "NEO"))
    last, middle = (_LAST_ENGLISH, _MIDDLE_ENGLISH) if english else (_LAST, _MIDDLE)
    first, second = draw.choice(middle), draw.choice(middle)
    third = draw.choice(middle) if draw.chance(40) else ""
    head = _plain(draw.choice(middle)) if draw.chance(30) else []
    words = [*head, *_tagged(_name(draw, english, draw.chance(35)), kind)]
    return [*words, *_plain(f"{first} {second} {third} {draw.choice(last[kind])} .")]


def _filled(draw: Draws, frame: str, english: bool) -> Sentence:
    words: Sentence = []
    for part in frame.split():
        words += _slot(draw, part[1:-1], english) if part.startswith("{") else [(part, "O")]
    return words


def _slot(draw: Draws, slot: str, english: bool) -> Sentence:
    kind, _, how = slot.partition(":")
    if kind == "THING":
        return _plain(draw.choice(_THINGS_ENGLISH if english else _THINGS))
    return _tagged(_FILLERS[how or kind](draw, english), kind)


def _plain(text: str) -> Sentence:
    return [(word, "O") for word in text.split()]


def _tagged(text: str, kind: str) -> Sentence:
    return [(word, f"{'I' if place else 'B'}-{kind}") for place, word in enumerate(text.split())]


def _name(draw: Draws, english: bool, two: bool = False) -> str:
    syllables = _LATIN if english else _SYLLABLES
    made = ["".join(draw.choice(syllables) for _ in range(2 + draw.below(2))) for _ in range(1 + two)]
    return " ".join(word.capitalize() for word in made) if english else " ".join(made)


def _person(draw: Draws, english: bool) -> str:
    title = draw.choice(("Mr", "Mrs", "Dr")) if english else draw.choice(("श्री", "श्रीमती", "डॉ"))
    return f"{title} {_name(draw, english, draw.chance(60))}"


def _town(draw: Draws, english: bool) -> str:
    ending = draw.choice(("ville", "bury", "ford")) if english else draw.choice(("पूर", "गाव", "नगर", "वाडी"))
    return _name(draw, english) + ending


def _society(draw: Draws, english: bool) -> str:
    kind = draw.choice(("Society", "Bank", "Trust")) if english else draw.choice(("मंडळ", "बँक", "समिती"))
    return f"{_name(draw, english)} {kind}"


def _number(draw: Draws, english: bool, most: int) -> str:
    digits = str(1 + draw.below(most))
    return digits if english or draw.chance(30) else digits.translate(str.maketrans("0123456789", "०१२३४५६७८९"))


def _measure(draw: Draws, english: bool) -> str:
    return f"{_number(draw, english, 900)} {draw.choice(_UNITS_ENGLISH if english else _UNITS)}"


def _date(draw: Draws, english: bool) -> str:
    return f"{_number(draw, english, 28)} {draw.choice(_MONTHS_ENGLISH if english else _MONTHS)}"


def _time(draw: Draws, english: bool) -> str:
    if english:
        return f"at {_number(draw, True, 12)} o'clock"
    return f"{draw.choice(('सकाळी', 'दुपारी', 'रात्री'))} {_number(draw, False, 12)} वाजता"


def _post(draw: Draws, english: bool) -> str:
    return draw.choice(_POSTS_ENGLISH if english else _POSTS)


_FILLERS = {
    "title": _person,
    "town": _town,
    "society": _society,
    "NEM": _measure,
    "NED": _date,
    "NETI": _time,
    "ED": _post,
}
