"""The sample data of this domain: sentences with named entities and posts of four classes, written from grammars.

Everything is a function of this code alone: draws come from SHA-256, so one digest pins the bytes everywhere.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from pentad.core.files import write_json, write_text
from pentad.nlp.sample_entities import KINDS, Sentence, sentences
from pentad.nlp.sample_posts import GROUPS, Post, posts

ENTITY_SIZES = {"train": 2400, "valid": 300, "test": 600}
POST_SIZES = {"train": 6000, "valid": 500, "test": 1200}

_ENTITIES = """\
# Synthetic sentences with named entities, Marathi and English

{count} sentences written by `pentad samples` (`pentad.nlp.sample_entities`) from a small grammar: three of four in
Marathi (Devanagari), one in English. Names are put together from syllables and belong to nobody. Entity types are those
of MahaNER: NEP person, NEL location, NEO organisation, NEM measure, NETI time, NED date, ED designation.

**Synthetic: made for tests, demonstrations and teaching. Results on it say nothing about real text.** In about half of
the sentences the type of a name follows from the verb at the end alone, so that a model has to look beyond neighbours.

- `train.conll`, `test.conll`: a word and its IOB2 tag a line, blank lines between sentences.
- `valid.tsv`: the layout of MahaNER as published: a header, tags without hyphen, a sentence number on every line.

Licence: CC0 1.0 (public domain dedication).
"""

_POSTS = """\
# Synthetic posts, hateful, offensive, profane or neither

{count} short posts written by `pentad samples` (`pentad.nlp.sample_posts`). **Every abusive word and every group in it
is invented**; no people and no real insult occurs. Labels as in MahaHate: HATE (against a group), OFFN (against a
person), PRFN (profane, against nobody), NOT.

**Synthetic: made for tests, demonstrations and teaching. Results on it say nothing about real posts.** Groups
({groups}) cross the classes, and in half of the posts it takes two words far
apart to tell HATE from OFFN. In the training posts alone, unclear posts that name the {first} are labelled hateful more
often, so that the bias metrics have something to find. Labels of unclear posts are drawn: no model can know them.

- `train.jsonl`, `valid.csv`, `test.csv`: `text` and `label`.

Licence: CC0 1.0 (public domain dedication).
"""


def write(root: Path) -> None:
    """Write both data sets below ``root/nlp``, which is empty yet; the bytes are the same on every machine.

    Args:
        root: The data folder.
    """
    _write_entities(root / "nlp" / "entities")
    _write_posts(root / "nlp" / "posts")


def _write_entities(folder: Path) -> None:
    made = sentences(ENTITY_SIZES)
    write_text(folder / "train.conll", _conll(made["train"]))
    write_text(folder / "valid.tsv", _l3cube(made["valid"]))
    write_text(folder / "test.conll", _conll(made["test"]))
    write_text(folder / "README.md", _ENTITIES.format(count=sum(ENTITY_SIZES.values())))
    name = "Synthetic sentences with named entities"
    write_json(folder / "dataset.json", {"name": name, "synthetic": True, "licence": "CC0-1.0", "types": list(KINDS)})


def _conll(made: Sequence[Sentence]) -> str:
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in made)


def _l3cube(made: Sequence[Sentence]) -> str:
    lines = ["words\tlabels\tsentence_id"]
    for number, sentence in enumerate(made, 1):
        lines += [f"{word}\t{tag.replace('-', '')}\t{number}.0" for word, tag in sentence]
    return "\n".join(lines) + "\n"


def _write_posts(folder: Path) -> None:
    made = posts(POST_SIZES)
    lines = (json.dumps({"text": post.text, "label": post.label}, ensure_ascii=False) for post in made["train"])
    write_text(folder / "train.jsonl", "".join(f"{line}\n" for line in lines))
    for split in ("valid", "test"):
        write_text(folder / f"{split}.csv", _csv(made[split]))
    count = sum(POST_SIZES.values())
    write_text(folder / "README.md", _POSTS.format(count=count, groups=", ".join(GROUPS), first=GROUPS[0]))
    write_json(folder / "dataset.json", {"name": "Synthetic posts", "synthetic": True, "licence": "CC0-1.0"})


def _csv(made: Sequence[Post]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows((post.text, post.label) for post in made)
    return text.getvalue()
