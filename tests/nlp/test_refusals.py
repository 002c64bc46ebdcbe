"""What settings and calls are refused, each with a sentence and its code, and what stands on the edges of a task."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from command import call

from pentad.core.cases import Case
from pentad.core.errors import PentadError
from pentad.nlp.bias import BiasConfig, swap_test
from pentad.nlp.calibration import fit_temperature
from pentad.nlp.documents import from_case
from pentad.nlp.learning import EncoderChoice
from pentad.nlp.models.bert_cnn import BertCnnConfig
from pentad.nlp.models.crf import fit_crf
from pentad.nlp.models.encoder import EncoderConfig, scale_learning_rates
from pentad.nlp.text import Mapped, Normalisation, normalise

SMALL = EncoderChoice(hidden=32, layers=3, heads=2, inner=64).values(50, 16, 0)


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("PTD-782", lambda: EncoderConfig(("only",), SMALL)),
        ("PTD-782", lambda: EncoderConfig(("a", "b"), {"hidden_size": 32})),
        ("PTD-787", lambda: BertCnnConfig(("a", "b"), SMALL, widths=())),
        ("PTD-787", lambda: BertCnnConfig(("a", "b"), SMALL, dropout=1.0)),
        ("PTD-786", lambda: scale_learning_rates(torch.nn.Linear(1, 1), 0.0)),
        ("PTD-786", lambda: scale_learning_rates(torch.nn.Linear(1, 1), 1.0, head=0.0)),
        ("PTD-764", lambda: from_case(Case(id="x", target={"label": "NOT"}))),
    ],
)
def test_impossible_settings_have_a_code(code, make):
    with pytest.raises(PentadError) as raised:
        make()
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        (
            "PTD-797",
            4,
            ("evaluate", "{table}", "--model", "{bundle}", "--split", "none", "-o", "{out}", *("--params", "{params}")),
        ),
        ("PTD-803", 2, ("predict", "{texts}", "--model", "{bundle}", "--outputs", "pdf", "-o", "{out}")),
        ("PTD-804", 5, ("predict", "{texts}", "--model", "no such bundle", "-o", "{out}")),
        ("PTD-777", 2, ("predict", "{out}/nothing", "--model", "{bundle}", "-o", "{out}")),
        ("PTD-777", 2, ("prepare", "{out}/nothing", "-o", "{out}", "--params", "{params}")),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(code, exit_code, words, classified, tmp_path):
    places = {
        "table": classified / "prepared" / "cases.jsonl",
        "bundle": classified / "bundles" / "char_tfidf",
        "params": classified / "params.yaml",
        "texts": classified / "raw",
        "out": tmp_path / "out",
    }
    done = call("nlp", *(word.format(**places) for word in words))
    assert done.code == exit_code
    assert code in done.sentence()
    assert not (tmp_path / "out").exists()


def test_a_table_without_a_training_split_is_refused(classified, tmp_path):
    lines = (classified / "prepared" / "cases.jsonl").read_text().splitlines()
    (tmp_path / "cases.jsonl").write_text("".join(line + "\n" for line in lines if '"train"' not in line))
    (tmp_path / "dataset.json").write_bytes((classified / "prepared" / "dataset.json").read_bytes())
    places = ("-o", tmp_path / "out", "--run", tmp_path / "run", "--params", classified / "params.yaml")
    done = call("nlp", "train", tmp_path / "cases.jsonl", "--model", "bert_sequence", *places)
    assert done.code == 2
    assert "PTD-791" in done.sentence()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def scored(classified, tagged, tmp_path):
    """Score held-out cases after a change of them, and return the result and the rows by id."""

    def run(task, change):
        work, model = (classified, "char_tfidf") if task == "classes" else (tagged, "crf")
        lines = [json.loads(line) for line in (work / "prepared" / "cases.jsonl").read_text().splitlines()]
        held = [line for line in lines if line["split"] == "test"]
        change(held)
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
        options = ("-o", tmp_path / "out", "--params", work / "params.yaml", "--device", "cpu")
        done = call("nlp", "evaluate", tmp_path / "cases.jsonl", "--model", work / "bundles" / model, *options)
        table = tmp_path / "out" / "per_case.csv"
        rows = list(csv.DictReader(table.open(newline=""))) if table.exists() else []
        return done, held, rows

    return run


@pytest.mark.parametrize("task", ["classes", "entities"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_case_without_a_text_fails_alone_wherever_it_stands(task, place, scored):
    done, held, rows = scored(task, lambda cases: cases[place]["target"].pop("text"))
    assert done.code == 3, done.err
    assert [row["id"] for row in rows if row["code"] == "PTD-798"] == [held[place]["id"]]
    assert sum(row["status"] == "ok" for row in rows) == len(held) - 1


def test_a_label_that_the_model_does_not_know_counts_nowhere(scored, tmp_path):
    done, held, rows = scored("classes", lambda cases: cases[0]["target"].update(label="SPAM"))
    assert done.code == 3, done.err
    assert [row["id"] for row in rows if row["code"] == "PTD-771"] == [held[0]["id"]]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {found[name]["n"] for name in ("accuracy", "calibration_error", "abstained")} == {len(held) - 1}


def test_nothing_to_score_is_one_sentence_and_writes_no_figures(scored, tmp_path):
    done, _, rows = scored("classes", lambda cases: [case["target"].pop("text") for case in cases])
    assert done.code == 4
    assert "PTD-797" in done.sentence()
    assert rows == []


def test_without_validation_texts_the_temperature_stays_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0


def test_no_group_or_one_group_alone_has_nothing_to_swap():
    def never(texts):
        raise AssertionError("nothing is to be scored")

    for texts, terms in ((["a plain text"], {"red": ["red"], "blue": ["blue"]}), (["the red fox"], {"red": ["red"]})):
        found = swap_test(texts, never, BiasConfig(terms), seed=0)
        assert found["texts"] == 0
        assert found["moved"]["n"] == 0


def test_a_sentence_without_a_word_has_no_tags(tagged):
    model = fit_crf([["सुनेला", "हसले"]] * 4, [["B-NEP", "O"]] * 4, ("O", "B-NEP", "I-NEP"), l1=0.1, l2=0.1, rounds=5)
    tags, marginals = model.tag([])
    assert tags == []
    assert marginals.shape == (0, 3)


def test_an_empty_span_leads_nowhere():
    mapped = normalise("क्षण", Normalisation())
    assert isinstance(mapped, Mapped)
    with pytest.raises(ValueError, match="an empty span 2 to 2"):
        mapped.original(2, 2)


def test_a_mention_inside_a_link_is_part_of_the_link():
    mapped = normalise("see https://example.org/@anna now", Normalisation(links=True, mentions=True))
    assert mapped.text == "see HTTPURL now"
    assert mapped.original(4, 11) == (4, 4 + len("https://example.org/@anna"))
