"""Core is a core: a domain of under 80 lines gets every verb from it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from core import pulse_domain

from pentad.core.batch import BatchOptions
from pentad.core.cases import read_cases


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    draw = np.random.default_rng(0)
    for number in range(40):
        signal = draw.normal(0, 0.3, 64)
        if number % 2:
            start = draw.integers(5, 50)
            signal[start : start + 8] += 2
        np.save(folder / f"{'pulse' if number % 2 else 'none'}_{number:02d}.npy", signal)
    np.save(folder / "none_short.npy", np.zeros(3))
    return folder


@pytest.fixture(scope="module")
def work(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    pulse_domain.prepare(raw, folder)
    pulse_domain.train(folder / "cases.jsonl", folder / "bundle", folder / "run", steps=60)
    return folder


def test_the_domain_stays_under_eighty_lines_and_copies_no_medical_code():
    text = Path(pulse_domain.__file__).read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) < 80
    assert "medical" not in text


def test_prepare_refuses_the_short_signal_and_keeps_the_rest(work):
    assert len(read_cases(work / "cases.jsonl")) == 40
    assert "PTD-390" in (work / "rejected.jsonl").read_text()


def test_evaluation_gives_an_interval_and_a_page(work):
    pulse_domain.score(work / "cases.jsonl", work / "bundle", work / "scores")
    accuracy = json.loads((work / "scores" / "metrics.json").read_text())["accuracy"]
    assert accuracy["value"] >= 0.9
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert "accuracy" in (work / "scores" / "page.html").read_text()


class StoppedHalfWay(pulse_domain.Signals):
    def __getitem__(self, ordinal):
        if ordinal == 30 * 8:
            raise KeyboardInterrupt
        return super().__getitem__(ordinal)


def test_training_stopped_and_resumed_gives_the_same_bundle(work, tmp_path, monkeypatch):
    monkeypatch.setattr(pulse_domain, "Signals", StoppedHalfWay)
    with pytest.raises(KeyboardInterrupt):
        pulse_domain.train(work / "cases.jsonl", tmp_path / "never", tmp_path / "run", steps=60)
    monkeypatch.undo()
    pulse_domain.train(work / "cases.jsonl", tmp_path / "again", tmp_path / "run", steps=60, resume=True)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (work / "bundle", tmp_path / "again")]
    assert weights[0] == weights[1]


def test_batch_prediction_isolates_the_bad_case_and_writes_a_worklist(work, raw, tmp_path):
    cases = read_cases(work / "cases.jsonl", "test")[:4]
    bad = cases[0].model_copy(update={"id": "bad", "files": {"signal": str(raw / "none_short.npy")}})
    code = pulse_domain.batch([*cases, bad], work / "bundle", BatchOptions(out=tmp_path, run="first", quiet=True))
    rows = list(csv.DictReader((tmp_path / "first" / "worklist.csv").open()))
    assert code == 3
    assert {row["id"]: row["status"] for row in rows}["bad"] == "failed"
    assert sum(row["status"] == "ok" for row in rows) == 4
