"""The verbs from raw files to the report, on tiny data."""

import json

import pytest
from command import call

from pentad.core.cases import read_cases
from pentad.nlp.predictors import load_predictor


def test_training_twice_gives_the_same_bundle(classified, tmp_path):
    settings = ("--params", classified / "params.yaml")
    table = classified / "prepared" / "cases.jsonl"
    places = ("-o", tmp_path / "again", "--run", tmp_path / "run")
    assert call("nlp", "train", table, "--model", "bert_cnn", *places, *settings).code == 0
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (classified / "bundles/bert_cnn", tmp_path / "again")
    ]
    assert weights[0] == weights[1]


def test_evaluation_writes_scores_calibration_bias_and_time(classified):
    folder = classified / "evaluations" / "bert_cnn"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"macro_f1", "accuracy", "auroc", "auprc", "calibration_error", "f1_HATE"} <= set(metrics)
    assert metrics["accuracy"]["n"] == 8
    bias = json.loads((folder / "bias.json").read_text())
    assert bias["groups"]["red"]["positives"] == 4
    assert json.loads((folder / "timing.json").read_text())["seconds_per_1000"] > 0
    assert json.loads((folder / "calibration.json").read_text())["temperature"] > 0


def test_subgroups_may_be_named_in_the_call(classified, tmp_path):
    table = classified / "prepared" / "cases.jsonl"
    places = ("--model", classified / "bundles" / "char_tfidf", "-o", tmp_path / "e")
    given = ("--params", classified / "params.yaml", "--subgroups", "foxes=fox,vixen", "--subgroups", "birds=bird")
    assert call("nlp", "evaluate", table, *places, *given).code == 0
    bias = json.loads((tmp_path / "e" / "bias.json").read_text())
    assert {name: (group["positives"], group["negatives"]) for name, group in bias["groups"].items()} == {
        "foxes": (4, 0),
        "birds": (0, 4),
    }
    done = call("nlp", "evaluate", table, *places, "--params", classified / "params.yaml", "--subgroups", "foxes")
    assert (done.code, done.sentence()[:7]) == (2, "PTD-818")


def test_entities_are_scored_by_type_strict_and_partial(tagged):
    metrics = json.loads((tagged / "evaluations" / "crf" / "metrics.json").read_text())
    assert metrics["f1"]["value"] == metrics["f1_NEP"]["value"] == 1.0
    assert {"f1_partial", "f1_macro", "precision", "recall"} <= set(metrics)


@pytest.mark.parametrize(
    ("work", "models"), [("classified", ("char_tfidf", "bert_cnn")), ("tagged", ("crf", "bert_tokens"))]
)
def test_the_report_compares_the_models_and_finds_shipped_what_was_scored(work, models, request, tmp_path):
    folder = request.getfixturevalue(work)
    table = folder / "prepared" / "cases.jsonl"
    model = folder / "bundles" / models[0]
    shipped = call(
        "nlp", "predict", table, "--split", "test", "-o", tmp_path, "--run", "r", "--model", model, "--quiet"
    )
    assert shipped.code == 0, shipped.err
    evaluations = [folder / "evaluations" / name for name in models]
    done = call(
        "nlp", "report", table, *evaluations, "-o", tmp_path, "--predictions", tmp_path / "r", "--runs", folder / "runs"
    )
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["shipped"] == {"documents": 8, "differing_documents": 0}
    assert list(metrics["paired_difference"]) == [f"{models[0]} - {models[1]}"]
    assert "Reliability" in (tmp_path / "report" / "index.html").read_text()


def test_a_setting_that_does_not_exist_names_the_nearest(classified, tmp_path):
    text = (classified / "params.yaml").read_text().replace("stride:", "strid:")
    (tmp_path / "params.yaml").write_text(text)
    table = classified / "prepared" / "cases.jsonl"
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r", "--params", tmp_path / "params.yaml")
    done = call("nlp", "train", table, "--model", "bert_cnn", *places)
    assert done.code == 2
    assert "did you mean 'stride'" in done.sentence()


def test_a_model_of_the_other_task_is_refused_before_anything_starts(classified, tmp_path):
    table = classified / "prepared" / "cases.jsonl"
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r", "--params", classified / "params.yaml")
    done = call("nlp", "train", table, "--model", "crf", *places)
    assert done.code == 5
    assert "finds entities" in done.sentence()


def test_a_harmful_class_that_does_not_exist_names_the_nearest_before_anything_is_scored(classified, tmp_path):
    table = classified / "prepared" / "cases.jsonl"
    places = ("--model", classified / "bundles" / "char_tfidf", "-o", tmp_path / "e")
    done = call("nlp", "evaluate", table, *places, "--params", classified / "params.yaml", "--set", "harmful=[HAT]")
    assert (done.code, done.sentence()[:7]) == (2, "PTD-814")
    assert "did you mean 'HATE'" in done.sentence()
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("model", ["char_tfidf", "bert_cnn"])
def test_documents_of_one_class_alone_are_nothing_to_train_on(classified, tmp_path, model):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"post number {n},NOT\n" for n in range(9)))
    settings = ("--params", classified / "params.yaml")
    assert call("nlp", "prepare", tmp_path / "train.csv", "-o", tmp_path / "p", *settings).code == 0
    places = ("-o", tmp_path / "b", "--run", tmp_path / "r")
    done = call("nlp", "train", tmp_path / "p" / "cases.jsonl", "--model", model, *places, *settings)
    assert (done.code, done.sentence()[:7]) == (2, "PTD-817")
    assert "'NOT' alone" in done.sentence()


def test_an_empty_split_is_said(classified, tmp_path):
    table = classified / "prepared" / "cases.jsonl"
    model = classified / "bundles" / "char_tfidf"
    done = call(
        "nlp",
        "evaluate",
        table,
        "--split",
        "dev",
        "--model",
        model,
        "-o",
        tmp_path,
        "--params",
        classified / "params.yaml",
    )
    assert (done.code, done.sentence()[:7]) == (4, "PTD-797")


def test_the_cases_hold_text_and_label_and_no_path(classified):
    case = read_cases(classified / "prepared" / "cases.jsonl", "train")[1]
    assert case.files == {}
    assert case.target == {"text": "the red fox bites train 1", "label": "HATE"}


def test_the_models_are_listed_with_their_task():
    done = call("nlp", "models", "list")
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "bert_tokens",
        "crf",
        "bert_sequence",
        "bert_cnn",
        "char_tfidf",
    ]


def test_a_bundle_says_what_its_data_may_be_used_for(classified):
    bundle = json.loads(call("nlp", "models", "show", classified / "bundles" / "bert_cnn").out)
    assert bundle["licences"]["data"] == "not stated"
    assert set(bundle["files"]) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert load_predictor(str(classified / "bundles" / "bert_cnn"), "cpu").settings.temperature > 0
