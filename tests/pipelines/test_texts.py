"""``dvc repro pipelines/marathi_ner`` and ``… pipelines/hate_speech`` as typed, on few samples with tiny models."""

import json
import os
import shutil

import pytest
import yaml
from imported import imported
from pipelines.checkout import ROOT, change, copy_project, dvc

FEW = {"train": 80, "val": 30, "test": 30}
MODELS = {"marathi_ner": ["bert_tokens", "crf"], "hate_speech": ["bert_cnn", "bert_sequence", "char_tfidf"]}
HEADLINE = {"marathi_ner": "f1", "hate_speech": "macro_f1"}


def tiny(name):
    """Sections of a pipeline's params.yaml for a run of seconds; the rest of each section stays."""
    params = yaml.safe_load((ROOT / "pipelines" / name / "params.yaml").read_text())
    encoder = {"vocabulary": 300, "hidden": 16, "heads": 2, "inner": 32}
    train = {"steps": 2, "batch_size": 8, "validate_every": 2, "warmup_steps": 0}
    changes = {"prepare": {"limit": FEW}, "encoder": encoder, "train": train}
    return {section: {**params[section], **values} for section, values in changes.items()}


@pytest.mark.slow
def test_the_literal_targets_run_both_pipelines_from_end_to_end(tmp_path):
    """In one call: a second run that does nothing is tested for all pipelines together."""
    targets = {name: f"pipelines/{name}" for name in MODELS}
    checkout = tmp_path / "checkout"
    if not (ROOT / "data").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    copy_project(checkout, targets["hate_speech"])
    shutil.copytree(ROOT / "data" / "nlp", checkout / "data" / "nlp", copy_function=os.link)
    for name, target in targets.items():
        change(checkout, target, tiny(name))
    (tmp_path / "commands").mkdir()
    with imported("nlp", tmp_path / "commands") as commands:
        dvc(checkout, "repro", *targets.values(), commands=commands)
    for name, target in targets.items():
        folder = checkout / target
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (list(metrics["models"]), metrics["data"]) == (MODELS[name], "synthetic")
        assert metrics["models"][MODELS[name][0]][HEADLINE[name]]["n"] == FEW["test"]
        assert metrics["shipped"] == {"documents": FEW["test"], "differing_documents": 0}
        assert "Synthetic data" in (folder / "report" / "index.html").read_text()
        assert f"| {name} |" in (folder / "results.md").read_text()
