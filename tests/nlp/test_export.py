"""Bundles written for other projects, and read by them."""

import json

import numpy as np
import pytest
import torch
from command import call

from pentad.nlp.documents import Document
from pentad.nlp.predictors import load_predictor

TEXT = "the red fox bites 3"


def export(bundle, out, kind, *more):
    return call("nlp", "models", "export", bundle, "-o", out, "--format", kind, *more)


@pytest.fixture(scope="module")
def tagger(tagged):
    return tagged / "bundles" / "bert_tokens"


def test_transformers_own_pipeline_gives_a_tagged_bundles_numbers(tagger, tmp_path):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    done = export(tagger, tmp_path / "out", "transformers")
    assert done.code == 0, done.err
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    pieces = AutoTokenizer.from_pretrained(tmp_path / "out")("सुनेला कामो हसले", return_tensors="pt")
    theirs = model(**pieces).logits[0].detach().numpy()
    predictor = load_predictor(str(tagger), "cpu")
    ours = predictor.model(pieces["input_ids"], pieces["attention_mask"])[0].detach().numpy()
    assert np.abs(theirs - ours).max() < 1e-5
    assert list(model.config.id2label.values()) == ["O", "B-NEP", "I-NEP"]
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["what"] == "the whole network"


def test_an_exported_encoder_is_a_source_to_train_from(classified, tmp_path):
    done = export(classified / "bundles" / "bert_cnn", tmp_path / "encoder", "transformers")
    assert "the encoder alone" in done.out
    text = (classified / "params.yaml").read_text()
    source = f"encoder: {{source: {tmp_path / 'encoder'}}}"
    lines = [source if line.startswith("encoder:") else line for line in text.splitlines()]
    (tmp_path / "params.yaml").write_text("\n".join(lines).replace("learning_rate: 0.001", "learning_rate: 0"))
    table = classified / "prepared" / "cases.jsonl"
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r", "--params", tmp_path / "params.yaml")
    assert call("nlp", "train", table, "--model", "bert_cnn", *places).code == 0
    before = load_predictor(str(classified / "bundles" / "bert_cnn"), "cpu").model.encoder.state_dict()
    after = load_predictor(str(tmp_path / "b"), "cpu").model.encoder.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["bert_cnn", "bert_tokens"])
def test_onnxruntime_gives_the_models_numbers_for_any_number_of_texts_and_pieces(name, request, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    work = request.getfixturevalue("tagged" if name == "bert_tokens" else "classified")
    done = export(work / "bundles" / name, tmp_path / "out", "onnx")
    assert done.code == 0, done.err
    predictor = load_predictor(str(work / "bundles" / name), "cpu")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for shape in ((1, 5), (3, 9)):
        ids = np.random.default_rng(0).integers(0, predictor.tokenizer.size, shape)
        found = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        wanted = predictor.model(torch.from_numpy(ids), torch.ones(shape, dtype=torch.long)).detach().numpy()
        assert np.abs(found - wanted).max() < 1e-4 * max(np.abs(wanted).max(), 1)


def test_what_cannot_be_exported_is_one_sentence(classified, tmp_path):
    assert (
        "baseline without a network"
        in export(classified / "bundles" / "char_tfidf", tmp_path / "a", "transformers").sentence()
    )
    assert "did you mean 'onnx'" in export(classified / "bundles" / "bert_cnn", tmp_path / "a", "onx").sentence()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("x")
    assert "PTD-592" in export(classified / "bundles" / "bert_cnn", tmp_path / "taken", "transformers").sentence()
    assert not (tmp_path / "a").exists()


def test_a_bundle_and_its_export_read_texts_alike(classified, tmp_path):
    from transformers import AutoTokenizer

    bundle = classified / "bundles" / "bert_cnn"
    assert export(bundle, tmp_path / "out", "transformers").code == 0
    tokenizer = load_predictor(str(bundle), "cpu").tokenizer
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")(Document("x", TEXT).text)["input_ids"]
    assert tuple(theirs) == (tokenizer.first, *tokenizer.texts([TEXT])[0].ids, tokenizer.last)
