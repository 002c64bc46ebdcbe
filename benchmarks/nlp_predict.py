"""Texts a second: our batch path against transformers' `pipeline(...)` with its defaults, same model, same outputs.

    python benchmarks/nlp_predict.py [--texts 5000] [--source FOLDER]

Both take the same texts of mixed length (log-normal, median 14 words) in turns, in one process and on as many threads.
Without --source the model is a small BERT with random weights and a vocabulary learned from the texts: speed does not
depend on the weights' values. What is compared is the whole way from strings to probabilities.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import pipeline

from pentad.nlp.dataset import TextConfig
from pentad.nlp.documents import Document
from pentad.nlp.learning import EncoderChoice
from pentad.nlp.models.encoder import EncoderConfig, find_pretrained
from pentad.nlp.models.heads import BertSequence
from pentad.nlp.predict import Settings, predict_documents
from pentad.nlp.text import Normalisation
from pentad.nlp.tokenizer import PieceTokenizer, learn

LABELS = ("NOT", "HATE")
LONGEST = 256


def mixed_texts(count: int) -> list[str]:
    """Return texts of 2 to 110 words, most of them short, as posts are."""
    draw = random.Random(0)
    words = ["".join(draw.choice("aeioukmnprst") for _ in range(draw.randint(2, 8))) for _ in range(3000)]
    lengths = [min(110, max(2, round(draw.lognormvariate(2.64, 0.8)))) for _ in range(count)]
    return [" ".join(draw.choice(words) for _ in range(length)) for length in lengths]


def both(texts: list[str], source: str, place: Path) -> tuple[BertSequence, PieceTokenizer, object]:
    """Return our model and tokenizer, and transformers' pipeline over the same weights."""
    torch.manual_seed(0)
    if source:
        found = find_pretrained(source)
        tokenizer = PieceTokenizer(found.tokenizer)
        model = BertSequence(EncoderConfig(LABELS, found.values))
        model.start_from(found)
    else:
        tokenizer = PieceTokenizer(learn(texts, 4000))
        choice = EncoderChoice(hidden=128, layers=4, heads=4, inner=512)
        model = BertSequence(EncoderConfig(LABELS, choice.values(tokenizer.size, LONGEST, tokenizer.pad)))
    model.eval().network.save_pretrained(place)
    tokenizer.as_transformers(LONGEST).save_pretrained(place)
    return model, tokenizer, pipeline("text-classification", model=str(place), device="cpu", top_k=None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--source", default="", help="Folder or hub id of an encoder.")
    asked = parser.parse_args()
    texts = mixed_texts(asked.texts)
    with tempfile.TemporaryDirectory() as place:
        model, tokenizer, theirs = both(texts, asked.source, Path(place))
        settings = Settings("classes", LABELS, TextConfig(Normalisation("none"), LONGEST, 32))
        documents = [Document(str(number), text) for number, text in enumerate(texts)]
        predict_documents(model, tokenizer, settings, documents[:64])
        theirs(texts[:16])
        start = time.perf_counter()
        ours = predict_documents(model, tokenizer, settings, documents)
        middle = time.perf_counter()
        answers = theirs(texts)
        end = time.perf_counter()
    names = sorted(model.network.config.id2label.items())
    table = np.array([[{one["label"]: one["score"] for one in row}[label] for _, label in names] for row in answers])
    mine = np.array([[one.scores[label] for label in LABELS] for one in ours])
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{asked.texts} texts, {torch.get_num_threads()} threads, {size:,} parameters")
    print(f"pentad               {middle - start:8.2f} s  {asked.texts / (middle - start):8.0f} texts/s")
    print(f"transformers pipeline{end - middle:8.2f} s  {asked.texts / (end - middle):8.0f} texts/s")
    difference = np.abs(table - mine).max()
    print(f"ratio {(end - middle) / (middle - start):.2f}, largest difference of a probability {difference:.1e}")
    print(f"peak memory of both {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
