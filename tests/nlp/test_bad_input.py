"""Whatever a user feeds the commands: an exit code, one sentence with a code for each thing, and the rest goes on."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest
from command import call

POSTS = """
prepare: {task: classes, labels: {NOT: NOT, HATE: HATE}, split: {train: 0.5, test: 0.5}, duplicates: report}
"""
TAGS = """
prepare: {task: entities, labels: {NEP: NEP}, split: {train: 0.5, test: 0.5}}
"""
GIANT = "word " * 3_300_000  # above the 16 MB that a line may have


def prepare(folder, params, *more):
    """Run prepare over ``folder/raw``: the result, the refusals by file, and the texts that went on."""
    (folder / "params.yaml").write_text(params)
    done = call("nlp", "prepare", folder / "raw", "-o", folder / "out", "--params", folder / "params.yaml", *more)
    refused = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_text().splitlines()]
    cases = [json.loads(line) for line in (folder / "out" / "cases.jsonl").read_text().splitlines()]
    assert all(re.fullmatch(r"[^\n]+\.", item["reason"]) for item in refused)
    return done, {item["where"]: item["code"] for item in refused}, cases


def test_every_bad_post_is_refused_alone_by_its_code_and_the_rest_is_prepared(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "good.csv").write_text("text,label\none fine post,NOT\nanother of them,HATE\n")
    (raw / "latin.csv").write_bytes("text,label\nça va,NOT\n".encode("latin-1"))
    (raw / "wide.csv").write_bytes("text,label\na,NOT\n".encode("utf-16"))
    (raw / "ragged.csv").write_text("text,label\nfirst of the ragged,NOT\nb,NOT,more\nlast of the ragged,NOT\n")
    (raw / "unknown.csv").write_text("text,label\nmay be or not,MAYBE\n")
    (raw / "empty.csv").write_text('text,label\n" ",NOT\n')
    (raw / "giant.csv").write_text(f"text,label\n{GIANT},NOT\nafter the giant,NOT\n")
    (raw / "giant.jsonl").write_text(json.dumps({"text": GIANT, "label": "NOT"}) + "\n")
    done, refused, cases = prepare(tmp_path, POSTS)
    assert done.code == 3
    assert "7 refused" in done.out
    assert refused == {
        "latin.csv": "PTD-766",
        "wide.csv": "PTD-766",
        "ragged.csv, line 3": "PTD-770",
        "unknown.csv, line 2": "PTD-771",
        "empty.csv, line 2": "PTD-773",
        "giant.csv, line 2": "PTD-760",
        "giant.jsonl, line 1": "PTD-760",
    }
    assert len(cases) == 5


def test_every_bad_sentence_is_refused_alone_by_its_code_and_the_rest_is_prepared(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.conll").write_text(
        "good\tO\n\nword\tO\n\tB-NEP\n\nword\tI-NEP\n\nword\tB-NEX\n\nword\tO\nword\n\nGood\tB-NEP\n"
    )
    (raw / "latin.conll").write_bytes("ça\tO\n".encode("latin-1"))
    (raw / "words.csv").write_text("text,label\na,NOT\n")
    done, refused, cases = prepare(tmp_path, TAGS)
    assert done.code == 3
    assert refused == {
        "a.conll, line 4": "PTD-769",
        "a.conll, line 6": "PTD-762",
        "a.conll, line 8": "PTD-771",
        "a.conll, line 11": "PTD-770",
        "latin.conll": "PTD-766",
        "words.csv": "PTD-781",
    }
    assert len(cases) == 2


def test_texts_on_two_sides_of_a_split_are_told_and_dropped_where_asked(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.csv").write_text("text,label\nThe quick brown fox jumps over it,NOT\nSomething else again,HATE\n")
    (raw / "test.csv").write_text("text,label\n@you the quick brown fox JUMPS over it!!,NOT\n")
    done, _, cases = prepare(tmp_path, POSTS)
    assert (done.code, len(cases)) == (0, 3)
    assert "1 near-duplicates across splits" in done.out
    done, _, cases = prepare(tmp_path, POSTS, "--set", "duplicates=drop", "--overwrite")
    assert (done.code, len(cases)) == (0, 2)
    assert "1 near-duplicates across splits, 1 dropped" in done.out
    told = json.loads((tmp_path / "out" / "duplicates.jsonl").read_text())
    assert (told["splits"], told["dropped"]) == (["test", "train"], True)


def test_a_label_that_yaml_takes_for_a_number_or_a_truth_value_is_told_to_be_put_in_quotes(tmp_path):
    (tmp_path / "raw.csv").write_text("text,label\na,OFF\n")
    for labels in ("OFF: OFFN", '"OFF": OFF', "1: OFFN"):
        (tmp_path / "params.yaml").write_text(f"prepare: {{task: classes, labels: {{{labels}}}}}\n")
        places = ("-o", tmp_path / "out", "--params", tmp_path / "params.yaml")
        done = call("nlp", "prepare", tmp_path / "raw.csv", *places)
        assert done.code == 2
        assert "PTD-214" in done.sentence()
        assert "put it in quotes" in done.sentence()


def test_nothing_usable_is_one_sentence_with_the_first_reason(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("text,label\n,NOT\n")
    (tmp_path / "params.yaml").write_text(POSTS)
    done = call("nlp", "prepare", tmp_path / "raw", "-o", tmp_path / "out", "--params", tmp_path / "params.yaml")
    assert done.code == 4
    assert re.match(r"PTD-779 .*PTD-773 a.csv, line 2", done.sentence())


def test_predict_says_what_it_cannot_read_and_answers_the_rest(tmp_path, classified):
    inner = tmp_path / "in"
    inner.mkdir()
    (inner / "ragged.csv").write_text('text,n\nfine,1\nb,1,2\n" ",3\n')
    (inner / "latin.txt").write_bytes("fine\nça va\n".encode("latin-1"))
    (inner / "wide.txt").write_bytes("a\n".encode("utf-16"))
    (inner / "giant.txt").write_text(GIANT + "\nfine\n")
    (inner / "quote.csv").write_text('text,n\n"never closed,1\nb,2\n')
    (inner / "column.csv").write_text("post,n\nfine,1\n")
    model = classified / "bundles" / "char_tfidf"
    done = call("nlp", "predict", inner, "-o", tmp_path / "out", "--model", model, "--run", "r", "--quiet")
    run = tmp_path / "out" / "r"
    assert done.code == 3
    with (run / "worklist.csv").open() as stream:
        rows = {row["id"]: (row["status"], row["code"]) for row in csv.DictReader(stream)}
    assert {name: row for name, row in rows.items() if row[0] != "ok"} == {
        "giant.txt": ("rejected", "PTD-768"),
        "wide.txt": ("rejected", "PTD-766"),
        "column.csv-000001": ("failed", "PTD-772"),
        "quote.csv-000001": ("failed", "PTD-774"),
    }
    files = sorted((run / "cases").glob("*/predictions.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(line["error"]["code"] for line in lines if "error" in line) == ["PTD-766", "PTD-770", "PTD-773"]
    assert sum("label" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["bert_cnn", "bert_tokens"])
def test_a_bundle_without_its_tokenizer_is_one_sentence_for_predict_and_evaluate(tmp_path, classified, tagged, name):
    work = classified if name == "bert_cnn" else tagged
    bundle = shutil.copytree(work / "bundles" / name, tmp_path / "b")
    (bundle / "tokenizer.json").unlink()
    (tmp_path / "a.txt").write_text("x\n")
    for verb, given in (("predict", tmp_path / "a.txt"), ("evaluate", work / "prepared" / "cases.jsonl")):
        more = ("--params", work / "params.yaml") if verb == "evaluate" else ()
        done = call("nlp", verb, given, "-o", tmp_path / verb, "--model", bundle, *more)
        assert done.code == 5
        assert re.match(r"PTD-503 .*tokenizer.json", done.sentence())
    assert [path.name for path in (tmp_path / "evaluate").rglob("*")] == []
    assert list((tmp_path / "predict").rglob("predictions.jsonl")) == []


def test_an_encoder_without_its_tokenizer_is_one_sentence_for_train(tmp_path, classified):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2}')
    params = (classified / "params.yaml").read_text().replace("encoder: {", f"encoder: {{source: {encoder}, ")
    (tmp_path / "params.yaml").write_text(params)
    table = classified / "prepared" / "cases.jsonl"
    places = ("-o", tmp_path / "bundle", "--run", tmp_path / "run", "--params", tmp_path / "params.yaml")
    done = call("nlp", "train", table, "--model", "bert_sequence", *places)
    assert done.code == 5
    assert re.match(r"PTD-78[345] ", done.sentence())
    assert not (tmp_path / "bundle").exists()
