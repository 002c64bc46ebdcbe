"""Models: every head learns sixteen examples by heart, padding changes nothing, bundles come back equal."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from domains import Trap

from pentad.core.bundle import load_bundle, save_bundle
from pentad.core.errors import ModelError, UsageError
from pentad.core.optimization import TrainConfig, build_optimizer
from pentad.core.run import seed_everything
from pentad.nlp.learning import EncoderChoice
from pentad.nlp.losses import balanced_weights, classification_loss
from pentad.nlp.models import CLASSES, entry
from pentad.nlp.models.bert_cnn import BertCnn, BertCnnConfig
from pentad.nlp.models.char_tfidf import fit_char_tfidf
from pentad.nlp.models.crf import fit_crf
from pentad.nlp.models.encoder import EncoderConfig, find_pretrained, scale_learning_rates
from pentad.nlp.models.heads import BertSequence, BertTokens

SMALL = EncoderChoice(hidden=32, layers=3, heads=2, inner=64, dropout=0.0).values(50, 16, 0)
LABELS = ("a", "b", "c")


def make(name):
    torch.manual_seed(0)
    if name == "bert_cnn":
        return BertCnn(BertCnnConfig(LABELS, SMALL, filters=8, dropout=0.0))
    return {"bert_tokens": BertTokens, "bert_sequence": BertSequence}[name](EncoderConfig(LABELS, SMALL))


@pytest.mark.parametrize("name", ["bert_tokens", "bert_sequence", "bert_cnn"])
def test_sixteen_examples_are_learned_by_heart(name):
    seed_everything(0)
    model = make(name).train()
    ids = torch.randint(5, 50, (16, 8))
    mask = torch.ones_like(ids)
    labels = torch.randint(0, 3, (16, 8) if name == "bert_tokens" else (16,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        logits = model(ids, mask)
        if (logits.argmax(-1) == labels).all():
            break
        loss = classification_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model.eval()(ids, mask).argmax(-1) == labels).all()


@pytest.mark.parametrize("name", ["bert_tokens", "bert_sequence", "bert_cnn"])
def test_padding_does_not_change_a_texts_logits(name):
    model = make(name).eval()
    ids = torch.randint(5, 50, (1, 3))
    longer = torch.cat([ids, torch.zeros(1, 9, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 3 + [0] * 9])
    with torch.inference_mode():
        alone, padded = model(ids, torch.ones_like(ids)), model(longer, mask)
    padded = padded[:, :3] if name == "bert_tokens" else padded
    assert torch.allclose(alone, padded, atol=1e-5)


def test_a_bert_cnn_pools_each_filter_over_the_last_four_layers_as_the_formula_says():
    model = make("bert_cnn").eval()
    ids = torch.randint(5, 50, (1, 7))
    with torch.no_grad():
        hidden = model.encoder(input_ids=ids, output_hidden_states=True).hidden_states[-4:]
        logits = model(ids, torch.ones_like(ids))
    pooled = []
    for convolution in model.convolutions:
        width = convolution.kernel_size[0]
        for filter_, bias in zip(convolution.weight, convolution.bias, strict=True):
            answers = [
                sum((filter_[layer] * hidden[layer][0, place : place + width]).sum() for layer in range(4)) + bias
                for place in range(8 - width)
            ]
            pooled.append(torch.stack(answers).relu().max())
    expected = model.dense(torch.stack(pooled))
    assert torch.allclose(logits[0], expected, atol=1e-5)


def test_the_published_sizes_have_160_filters():
    found = BertCnnConfig(LABELS, SMALL)
    assert (found.widths, found.filters * len(found.widths), found.layers) == ((1, 2, 3, 4, 5), 160, 4)


def test_a_baseline_comes_back_from_its_bundle_with_the_same_scores(tmp_path):
    texts = ["नमस्ते जग", "hello 👩‍👩‍👧 world", "नमस्ते तुला", "hello there"] * 3
    model = fit_char_tfidf(texts, ["x", "y"] * 6, ["x", "y"], strength=1.0, features=50, balanced=False)
    save_bundle(tmp_path / "b", model, domain="nlp", name="char_tfidf", settings={}, card="", provenance={})
    again = load_bundle(tmp_path / "b", "nlp", CLASSES).model
    assert np.array_equal(again.score(texts), model.score(texts))


def test_the_two_class_baseline_is_scikit_learns_logistic_regression():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = ["good day", "bad day", "good night", "bad night", "so good", "so bad"]
    labels = ["x", "y"] * 3
    model = fit_char_tfidf(texts, labels, ["x", "y"], strength=2.0, features=100, balanced=False)
    matrix = (
        vectorizer := TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    ).fit_transform(texts)
    expected = (
        LogisticRegression(C=2.0, max_iter=1000).fit(matrix, labels).decision_function(vectorizer.transform(texts))
    )
    logits = model.score(texts)
    assert np.allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)


def test_a_crf_comes_back_from_its_bundle_and_tags_what_it_learned(tmp_path):
    words, tags = [["Mr", "Rao", "left"], ["she", "left", "Pune"]], [["O", "B-P", "O"], ["O", "O", "B-L"]]
    model = fit_crf(words * 5, tags * 5, ["O", "B-P", "I-P", "B-L", "I-L"], l1=0.0, l2=0.01, rounds=30)
    save_bundle(tmp_path / "b", model, domain="nlp", name="crf", settings={}, card="", provenance={})
    found, marginals = load_bundle(tmp_path / "b", "nlp", CLASSES).model.tag(words[0])
    assert found == tags[0]
    assert np.allclose(marginals.sum(1), 1)


def test_a_crf_keeps_the_bytes_that_its_library_reads(tmp_path):
    words = [[f"word{n}x{m}" for m in range(10)] for n in range(300)]
    tags = [["O", "B-P"] * 5] * 300
    model = fit_crf(words, tags, ["O", "B-P", "I-P"], l1=0.0, l2=0.01, rounds=10)
    save_bundle(tmp_path / "b", model, domain="nlp", name="crf", settings={}, card="", provenance={})
    again = load_bundle(tmp_path / "b", "nlp", CLASSES).model
    again.tag(words[0])
    junk = [b"\xff" * (again.config.size + extra) for extra in range(64)]  # takes the place of what was freed
    assert [again.tag(row)[0] for row in words[:50]] == [row[:10] for row in tags[:50]]
    assert len(junk) == 64


def test_deeper_layers_learn_more_slowly_and_biases_are_not_decayed():
    model = make("bert_sequence")
    scale_learning_rates(model, 0.5, head=3.0, freeze_embeddings=True)
    groups = build_optimizer(model, TrainConfig(steps=1, learning_rate=1.0, weight_decay=0.1)).param_groups
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    by_name = {name: rates.get(id(parameter)) for name, parameter in model.network.named_parameters()}
    assert by_name["classifier.weight"] == (3.0, 0.1)
    assert by_name["bert.encoder.layer.2.attention.self.query.weight"] == (0.5, 0.1)
    assert by_name["bert.encoder.layer.0.attention.self.query.bias"] == (0.125, 0.0)
    assert by_name["bert.embeddings.word_embeddings.weight"] is None


def test_the_focal_loss_is_cross_entropy_at_zero_and_looks_away_from_the_easy():
    logits, labels = torch.tensor([[4.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 0])
    assert classification_loss(logits, labels, focal=1e-9) == pytest.approx(
        classification_loss(logits, labels).item(), rel=1e-5
    )
    p = torch.softmax(logits, -1)[:, 0]
    assert classification_loss(logits, labels, focal=2.0).item() == pytest.approx(
        (-((1 - p) ** 2) * p.log()).mean().item()
    )


def test_balanced_weights_are_the_inverse_frequencies():
    assert balanced_weights([0, 0, 0, 1], 2).tolist() == pytest.approx([4 / 6, 2.0])


def test_a_missing_encoder_says_what_to_put_where(tmp_path):
    with pytest.raises(ModelError, match=r"PTD-784 .*config\.json, model\.safetensors and tokenizer\.json"):
        find_pretrained(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"PTD-784 .*into a folder and give its path"):
        find_pretrained("l3cube-pune/marathi-bert-v2-not-there", offline=True)


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 16}')
    with pytest.raises(ModelError, match=r"PTD-785 .*put tokenizer\.json beside"):
        find_pretrained(str(tmp_path))


def write_encoder(folder, kind, family="bert"):
    """An encoder's folder as published: three layers, random weights, a tokenizer of the kind."""
    from transformers import AutoConfig, AutoModel

    from pentad.nlp.tokenizer import PieceTokenizer, learn

    seed_everything(0)
    tokenizer = PieceTokenizer(learn(["रिया पुण्यात राहते", "the red fox bites, the blue bird sings"] * 4, 120, kind))
    values = EncoderChoice(hidden=32, layers=3, heads=2, inner=64).values(tokenizer.size, 32, tokenizer.pad)
    AutoModel.from_config(AutoConfig.for_model(**{**values, **FAMILIES[family]})).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.text)
    return find_pretrained(str(folder))


def test_code_that_an_encoder_brings_is_never_run_and_never_asked_about(tmp_path, monkeypatch):
    """Neither Python files beside config.json nor a pickle in place of the weights."""
    from transformers import AutoModel

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Config: pass\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "code" / "config.json").write_text(json.dumps(own))
    with pytest.raises(ModelError, match=r"PTD-784 .*asks for code"):
        find_pretrained(str(tmp_path / "code"))
    pickled = write_encoder(tmp_path / "pickle", "wordpiece")
    (tmp_path / "pickle" / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Trap(tmp_path / "sprung")}, tmp_path / "pickle/pytorch_model.bin")
    with pytest.raises(ModelError, match=r"PTD-783 .*weights cannot be loaded"):
        pickled.load(AutoModel)
    assert not (tmp_path / "sprung").exists()


FAMILIES = {  # mBERT and MahaBERT are BERT, MiniLM too; IndicBERT is ALBERT
    "bert": {},
    "albert": {"model_type": "albert", "embedding_size": 16},
    "xlm-roberta": {"model_type": "xlm-roberta", "max_position_embeddings": 34},
    "distilbert": {"model_type": "distilbert", "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
    "electra": {"model_type": "electra", "embedding_size": 16},
}


@pytest.mark.parametrize("name", ["bert_tokens", "bert_sequence", "bert_cnn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_of_encoders_is_taken_whole_and_learns_below_its_head(tmp_path, family, name):
    from transformers import AutoModel

    source = write_encoder(tmp_path, "unigram", family)
    if name == "bert_cnn":
        model = BertCnn(BertCnnConfig(LABELS, source.values, filters=8))
    else:
        model = {"bert_tokens": BertTokens, "bert_sequence": BertSequence}[name](EncoderConfig(LABELS, source.values))
    model.start_from(source)
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    assert torch.isfinite(model.eval()(ids, torch.ones_like(ids))).all()
    published = {
        key: value for key, value in AutoModel.from_pretrained(tmp_path).state_dict().items() if "pool" not in key
    }
    ours = model.state_dict()
    scale_learning_rates(model, 0.5, head=3.0)
    rates = {key: parameter._learning_rate_scale for key, parameter in model.named_parameters()}
    for key, value in published.items():
        (place,) = [own for own in ours if own.endswith(f".{key}")]
        assert torch.equal(ours[place], value), key
        assert rates.get(place, 0.0) <= 0.5, key


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_trimmed_encoder_of_fewer_layers_gives_the_same_features_of_the_texts_it_was_trimmed_to(tmp_path, kind):
    from transformers import AutoModel

    from pentad.nlp.tokenizer import PieceTokenizer

    whole = write_encoder(tmp_path, kind)
    small = whole.first_layers(2).trimmed(["the red fox"])
    model = BertSequence(EncoderConfig(LABELS, small.values))
    model.start_from(small)
    pieces = [PieceTokenizer(found.tokenizer).texts(["the red fox"])[0].ids for found in (whole, small)]
    published = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        wanted = published(torch.tensor([pieces[0]]), output_hidden_states=True).hidden_states[2]
        found = model.eval().network.bert(torch.tensor([pieces[1]])).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-6)
    assert len(small.rows) == model.network.config.vocab_size < whole.values["vocab_size"]
    # A word not met falls apart into letters.
    tokenizer = PieceTokenizer(small.tokenizer)
    assert tokenizer.unknown not in tokenizer.texts(["bird"])[0].ids


def test_more_layers_than_a_pretrained_encoder_has_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-808 .*from 1 to 3"):
        write_encoder(tmp_path, "wordpiece").first_layers(4)


def test_a_byte_pair_tokenizer_is_not_trimmed():
    from tokenizers import Tokenizer, models

    from pentad.nlp.tokenizer import trimmed

    pairs = Tokenizer(models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}, []))
    pairs.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    with pytest.raises(ModelError, match=r"PTD-809 .*BPE"):
        trimmed(pairs.to_str(), ["a"])


def test_models_of_another_task_or_name_are_refused():
    with pytest.raises(ModelError, match="did you mean 'bert_cnn'"):
        entry("bert_cn", "classes")
    with pytest.raises(ModelError, match="choose one of bert_tokens, crf"):
        entry("bert_cnn", "entities")


def test_more_layers_than_the_encoder_has_are_refused():
    with pytest.raises(ModelError, match="PTD-787"):
        BertCnn(BertCnnConfig(LABELS, SMALL, layers=5))


def test_a_stride_as_wide_as_the_window_is_refused():
    from pentad.nlp.dataset import TextConfig

    with pytest.raises(UsageError, match="PTD-790"):
        replace(TextConfig(), max_length=34, stride=32)
