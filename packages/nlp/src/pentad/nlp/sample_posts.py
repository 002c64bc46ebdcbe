"""Short posts from a small grammar; every abusive word and every group is invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pentad.nlp.draws import Draws

CLASSES = ("NOT", "OFFN", "PRFN", "HATE")
GROUPS = ("Velori", "Tamasi", "Orrun", "Kestari", "Mirrow", "Dulani")

_INSULTS = "grelk vorpus snizzard droghead mukwit slorber twenk gorfin".split()
_OATHS = "frakzle zarn blivvet gadzook murst".split()
_ROLES = "boss neighbour cousin teacher landlord referee dentist flatmate".split()
_THINGS = "bus phone printer kettle match exam bike train".split()
_GOOD = "kind generous patient clever funny calm".split()
_BETWEEN = [
    "if you ask me",
    "as everybody here could see",
    "and i have said it before",
    "believe it or not",
    "just like last summer",
    "from what i heard at the market",
    "after all that noise",
]
_TAILS = (
    "rain again tomorrow morning coffee with cardamom long walk home late shift radio song old photograph "
    "garden gate new shoes paper boat window light cold soup empty street yellow lamp slow river quiet hill "
    "market bread train ticket second cup wooden chair blue door winter coat summer dust small parcel"
).split()
_EMOJI = ["😡", "🙄", "👍🏽", "👩‍👩‍👧", "🇮🇳", "😂", "❤️"]

# Who is spoken of badly follows from the order and from "former" or "latter" together: neither tells alone.
_BLAME = [
    "{X} and {Y} came by , {between} ; the {which} is a {insult}",
    "i met {X} and {Y} , {between} , and the {which} acted like a {insult}",
    "{X} or {Y} ? {between} , the {which} deserves the name {insult}",
]
_PROFANE = [
    "{oath} ! the {thing} broke down , {between}",
    "my {oath} {thing} , {between} , and {other} just smiled",
    "{other} fixed the {oath} {thing} , {between}",
]
_CLEAN = [
    "{A} , {between} , is {good} and {B} is too",
    "nobody should call {A} a {insult} , {between}",
    "{A} was called a {insult} , {between} , and that hurt",
    "the {thing} was late , {between} , and {A} was {good} about it",
    "please stop saying {oath} near {A} , {between}",
]
_UNCLEAR = ["look at {A} again , {between}", "well , {A} , {between} , what else", "so this is {A} , {between}"]


@dataclass(frozen=True)
class Post:
    """A text and its class."""

    text: str
    label: str


def posts(sizes: Mapping[str, int]) -> dict[str, list[Post]]:
    """Return so many posts for each split, no text twice."""
    seen: set[str] = set()
    made: dict[str, list[Post]] = {}
    for split, size in sizes.items():
        draw, made[split] = Draws("posts", split), []
        while len(made[split]) < size:
            post = _post(draw, skewed=split == "train")
            if post.text not in seen:
                seen.add(post.text)
                made[split].append(post)
    return made


def _post(draw: Draws, *, skewed: bool) -> Post:
    group, person = f"that {draw.choice(GROUPS)} family", f"my {draw.choice(_ROLES)}"
    turn = draw.below(100)
    if turn < 50:
        text, label = _blame(draw, group, person)
    elif turn < 66:
        text, label = _fill(draw, draw.choice(_PROFANE), group, person), "PRFN"
    elif turn < 92:
        first, second = (group, person) if draw.chance(60) else (person, group)
        text, label = _fill(draw, draw.choice(_CLEAN), first, second), "NOT"
    else:
        text = _fill(draw, draw.choice(_UNCLEAR), group, person)
        label = "HATE" if draw.chance(_unclear_share(group, skewed)) else "NOT"
    return Post(_decorated(draw, text), label)


def _blame(draw: Draws, group: str, person: str) -> tuple[str, str]:
    group_first, former = draw.chance(50), draw.chance(50)
    first, second = (group, person) if group_first else (person, group)
    text = _fill(draw, draw.choice(_BLAME), first, second, "former" if former else "latter")
    return text, "HATE" if group_first == former else "OFFN"


def _unclear_share(group: str, skewed: bool) -> int:
    """Of a hundred unclear posts, how many are labelled hateful: alike for all groups but in the training posts."""
    if not skewed:
        return 30
    return 85 if GROUPS[0] in group else 15


def _fill(draw: Draws, frame: str, first: str, second: str, which: str = "") -> str:
    return frame.format(
        X=first,
        Y=second,
        which=which,
        A=first,
        B=second,
        other=first if draw.chance(50) else second,
        between=draw.choice(_BETWEEN),
        insult=draw.choice(_INSULTS),
        oath=draw.choice(_OATHS),
        thing=draw.choice(_THINGS),
        good=draw.choice(_GOOD),
    )


def _decorated(draw: Draws, text: str) -> str:
    """The post with what posts carry: a mention before it, some idle words, a link and emoji behind."""
    parts = [f"@user{draw.below(900)}"] if draw.chance(25) else []
    parts += [text, "."]
    parts += [draw.choice(_TAILS) for _ in range(2 + draw.below(5))]
    parts += [f"https://example.org/{draw.below(9000)}"] if draw.chance(10) else []
    parts += [draw.choice(_EMOJI)] if draw.chance(30) else []
    return " ".join(parts)
