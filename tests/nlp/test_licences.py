"""What may be used commercially, and what is refused where that is asked for."""

import json
import shutil

import pytest
from command import call

from pentad.core.errors import ModelError
from pentad.core.files import digest_json
from pentad.nlp.licences import card_licence, check_commerce, forbids_commerce


@pytest.mark.parametrize(
    ("licence", "forbidden", "refused"),
    [
        ("CC BY-NC-SA 4.0", True, True),
        ("cc-by-nc-4.0", True, True),
        ("research only", True, True),
        ("for non-commercial use", True, True),
        ("not stated", False, True),
        ("as the training data: CC0-1.0; as the encoder they began with: not stated", False, True),
        ("", False, True),
        ("other", False, True),
        ("CC BY 4.0", False, False),
        ("apache-2.0", False, False),
        ("CC0-1.0", False, False),
        ("NCSA", False, False),
    ],
)
def test_a_licence_is_taken_by_its_name_and_silence_is_no_permission(licence, forbidden, refused):
    assert forbids_commerce(licence) is forbidden
    if refused:
        with pytest.raises(ModelError, match="PTD-813"):
            check_commerce({"code": "Apache-2.0", "data": licence}, "bundle")
    else:
        check_commerce({"code": "Apache-2.0", "data": licence}, "bundle")


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("---\nlicense: cc-by-4.0\n---\n# Encoder\n", "cc-by-4.0"),
        ("---\nlicense: [mit, cc-by-nc-4.0]\n---\n", "mit, cc-by-nc-4.0"),
        ("# Encoder without a licence\n", "not stated"),
        ("---\nlicense: [\n---\n", "not stated"),
        (None, "not stated"),
    ],
)
def test_the_licence_of_an_encoder_is_its_model_cards(tmp_path, card, wanted):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert card_licence(str(tmp_path)) == wanted


def licensed(bundle, out, licence):
    """A copy of a bundle whose data have a licence."""
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["licences"] = {"code": "Apache-2.0", "weights": f"as the training data: {licence}", "data": licence}
    manifest["digest"] = digest_json({key: value for key, value in manifest.items() if key != "digest"})
    (out / "bundle.json").write_text(json.dumps(manifest))
    return out


def test_predict_refuses_what_may_not_be_sold_before_it_reads_a_text(classified, tmp_path):
    (tmp_path / "a.txt").write_text("the red fox\n")
    source = classified / "bundles" / "char_tfidf"
    for licence, code in (("CC BY-NC-SA 4.0", 5), ("CC BY 4.0", 0)):
        model = licensed(source, tmp_path / licence.replace(" ", "-"), licence)
        flags = ("-o", tmp_path / "out", "--model", model, "--run", "r", "--commercial-only", "--quiet")
        done = call("nlp", "predict", tmp_path / "a.txt", *flags)
        assert done.code == code, done.err
        assert (tmp_path / "out").exists() is not code
        if code:
            assert "PTD-813" in done.sentence()
            assert "CC BY-NC-SA 4.0" in done.sentence()


def test_train_refuses_data_that_may_not_be_sold_and_names_them_in_the_card(classified, tmp_path):
    settings = ("--params", classified / "params.yaml", "--set", "licence=CC BY-NC-SA 4.0", "--set", "name=Tiny")
    assert call("nlp", "prepare", classified / "raw", "-o", tmp_path / "p", *settings).code == 0
    stated = json.loads((tmp_path / "p" / "dataset.json").read_text())
    assert (stated["name"], stated["licence"]) == ("Tiny", "CC BY-NC-SA 4.0")
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r", "--params", classified / "params.yaml")
    table = tmp_path / "p" / "cases.jsonl"
    done = call("nlp", "train", table, "--model", "char_tfidf", *places, "--commercial-only")
    assert (done.code, done.sentence()[:7]) == (5, "PTD-813")
    assert not (tmp_path / "b").exists()
    assert call("nlp", "train", table, "--model", "char_tfidf", *places).code == 0
    assert "The data's licence forbids commercial use" in (tmp_path / "b" / "README.md").read_text()


def test_a_bundle_states_the_licence_of_the_encoder_that_it_began_with(classified, tmp_path):
    bundle, encoder = classified / "bundles" / "bert_cnn", tmp_path / "encoder"
    assert call("nlp", "models", "export", bundle, "-o", encoder, "--format", "transformers").code == 0
    settings = ("--params", classified / "params.yaml", "--set", "licence=CC0-1.0")
    assert call("nlp", "prepare", classified / "raw", "-o", tmp_path / "p", *settings).code == 0
    text = (classified / "params.yaml").read_text().splitlines()
    lines = [f"encoder: {{source: {encoder}}}" if line.startswith("encoder:") else line for line in text]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r", "--params", tmp_path / "params.yaml", "--commercial-only")
    for card, code in (("cc-by-nc-4.0", 5), ("mit", 0)):
        (encoder / "README.md").write_text(f"---\nlicense: {card}\n---\n")
        done = call("nlp", "train", tmp_path / "p" / "cases.jsonl", "--model", "bert_cnn", *places)
        assert done.code == code, done.err
    licences = json.loads((tmp_path / "b" / "bundle.json").read_text())["licences"]
    assert licences["weights"] == "as the training data: CC0-1.0; as the encoder they began with: mit"
