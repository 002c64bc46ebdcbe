from __future__ import annotations

from pathlib import Path

import pytest
from command import call

PARAMS = """
prepare: {{task: {task}, types: [{types}], seed: 1}}
text: {{max_length: 24, stride: 4}}
encoder: {{vocabulary: 300, hidden: 16, layers: 2, heads: 2, inner: 32}}
learning: {{abstain_below: 0.6}}
train: {{steps: 2, batch_size: 8, optimizer: adamw, learning_rate: 0.001, device: cpu}}
bert_cnn: {{layers: 2, filters: 4}}
evaluate: {{seed: 1, harmful: [HATE], bias: {{terms: {{red: [red], blue: [blue]}}, smallest: 1}}}}
"""
WORDS = {"HATE": "the red fox bites", "NOT": "the blue bird sings"}


def write_posts(folder: Path) -> None:
    for split, size in {"train": 16, "valid": 6, "test": 8}.items():
        rows = [f"{WORDS['HATE' if n % 2 else 'NOT']} {split} {n},{'HATE' if n % 2 else 'NOT'}" for n in range(size)]
        (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


def write_sentences(folder: Path) -> None:
    for split, size in {"train": 16, "valid": 6, "test": 8}.items():
        blocks = [f"{split}{n}\tO\nसुनेला\tB-NEP\nकामो\tI-NEP\nहसले\tO\n" for n in range(size)]
        (folder / f"{split}.conll").write_text("\n".join(blocks))


def train(work: Path, task: str, models: tuple[str, ...], types: str = "") -> Path:
    (work / "params.yaml").write_text(PARAMS.format(task=task, types=types))
    settings = ("--params", work / "params.yaml")
    table = work / "prepared" / "cases.jsonl"
    stages = [("prepare", work / "raw", "-o", work / "prepared")]
    for model in models:
        places = ("-o", work / "bundles" / model, "--run", work / "runs" / model)
        stages.append(("train", table, "--model", model, *places))
        stages.append(
            (
                "evaluate",
                table,
                "--model",
                work / "bundles" / model,
                "-o",
                work / "evaluations" / model,
                "--device",
                "cpu",
            )
        )
    for stage in stages:
        done = call("nlp", *stage, *settings)
        assert done.code == 0, done.err
    return work


@pytest.fixture(scope="session")
def classified(tmp_path_factory) -> Path:
    """A folder in which tiny posts were prepared, and two models trained for two steps and evaluated."""
    work = tmp_path_factory.mktemp("classified")
    (work / "raw").mkdir()
    write_posts(work / "raw")
    return train(work, "classes", ("bert_cnn", "char_tfidf"))


@pytest.fixture(scope="session")
def tagged(tmp_path_factory) -> Path:
    """A folder in which tiny sentences were prepared, and two models trained for two steps and evaluated."""
    work = tmp_path_factory.mktemp("tagged")
    (work / "raw").mkdir()
    write_sentences(work / "raw")
    return train(work, "entities", ("bert_tokens", "crf"))
