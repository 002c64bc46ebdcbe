"""The sample data: pinned bytes, labels as promised."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from pentad.nlp.draws import Draws
from pentad.nlp.ingest import PrepareConfig, read_documents
from pentad.nlp.sample_entities import KINDS
from pentad.nlp.sample_posts import CLASSES, GROUPS
from pentad.nlp.samples import write

DIGEST = Path(__file__).parents[1] / "reference" / "samples_nlp.sha256"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    write(root)
    return root / "nlp"


def test_all_bytes_are_those_of_the_stored_digest(samples):
    whole = hashlib.sha256()
    for path in sorted(path for path in samples.rglob("*") if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(samples).as_posix()} {digest}\n".encode())
    assert whole.hexdigest() == DIGEST.read_text().strip()


def test_the_samples_stay_under_ten_megabytes(samples):
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 10e6


def test_every_sentence_is_read_and_all_types_occur(samples):
    documents, refused = read_documents(samples / "entities", PrepareConfig("entities", types=KINDS))
    kinds = {tag[2:] for document in documents for tag in document.tags} - {""}
    assert (len(documents), refused, kinds) == (3300, [], set(KINDS))
    assert Counter(document.split for document in documents) == {"train": 2400, "val": 300, "test": 600}


def test_most_names_of_the_held_out_sentences_are_new(samples):
    documents, _ = read_documents(samples / "entities", PrepareConfig("entities", types=KINDS))
    words = {"train": set(), "test": set()}
    for document in documents:
        if document.split in words:
            pairs = zip(document.text.split(), document.tags, strict=True)
            words[document.split] |= {word for word, tag in pairs if tag in ("B-NEP", "B-NEL", "B-NEO")}
    assert len(words["test"] - words["train"]) > 0.7 * len(words["test"])


def test_groups_cross_the_classes_and_one_is_skewed_in_training_alone(samples):
    documents, refused = read_documents(samples / "posts", PrepareConfig("classes"))
    assert refused == []
    share = {}
    for split in ("train", "test"):
        posts = [document for document in documents if document.split == split]
        assert {document.label for document in posts} == set(CLASSES)
        unclear = [
            document for document in posts if "look at that" in document.text or "so this is that" in document.text
        ]
        for group in GROUPS:
            own = [document.label == "HATE" for document in unclear if group in document.text]
            share[split, group] = sum(own) / len(own)
    assert share["train", GROUPS[0]] > 0.6 > share["test", GROUPS[0]]
    assert max(share["train", group] for group in GROUPS[1:]) < 0.5


def test_draws_repeat_by_key():
    first, second, other = Draws("a", 1), Draws("a", 1), Draws("a", 2)
    assert [first.below(1000) for _ in range(5)] == [second.below(1000) for _ in range(5)]
    assert first.below(10**9) != other.below(10**9)
