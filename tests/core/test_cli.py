from __future__ import annotations

import logging
import os
import re
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from command import call, command, run, unmeasured

from pentad.core.batch import BatchOptions

CHECKOUT = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "monai",
    "matplotlib",
    "numba",
    "highdicom",
    "numpy",
    "scipy",
    "pydicom",
    "nibabel",
    "SimpleITK",
    "dvc",
}


def seconds_of(arguments: list[str]) -> float:
    """CPU time of a command, which other work on the machine does not lengthen as it does the clock's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, check=True, capture_output=True, env=unmeasured())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


@pytest.mark.parametrize("arguments", [("--help",), ("medical", "--help"), ("medical", "predict", "--help")])
def test_help_takes_less_than_half_a_second(arguments):
    assert min(seconds_of(command(*arguments)) for _ in range(3)) < 0.5


@pytest.mark.parametrize("arguments", [("--help",), ("medical", "--help"), ("medical", "models", "--help")])
def test_help_imports_nothing_heavy(arguments):
    call_ = [sys.executable, "-X", "importtime", *command(*arguments)[1:]]
    told = subprocess.run(call_, capture_output=True, text=True, check=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines() if "|" in line}
    assert "typer" in imported
    assert imported & HEAVY == set()


def test_help_names_every_command_and_installed_domain():
    told = call("--help").out
    assert all(re.search(rf"^\s+{name}\b", told, re.MULTILINE) for name in ("samples", "doctor", "plan", "medical"))


@pytest.mark.parametrize("domain", ["audio", "medical", "nlp", "point-clouds", "remote-sensing"])
def test_every_batch_run_has_all_options_of_one(domain):
    told = call(domain, "predict", "--help").out
    settings = {field.name for field in fields(BatchOptions)} - {"out", "notice", "json_lines"}
    flags = {"--out", "--json", *(f"--{name.replace('_', '-')}" for name in settings)}
    assert flags - set(re.findall(r"--[\w-]+", told)) == set()


@pytest.mark.parametrize("arguments", [(), ("medical",)])
def test_without_a_verb_the_help_is_shown(arguments):
    done = call(*arguments)
    assert "Usage: pentad" in done.out + done.err


def test_an_unknown_command_names_the_nearest():
    done = call("docter")
    assert done.code == 2
    assert "PTD-200 'docter' is neither a command nor an installed domain (did you mean 'doctor'?)" in done.sentence()


def test_a_domain_that_is_not_installed_says_how_to_install_it():
    done = call("-v", "weather", "predict")
    assert done.code == 2
    assert "pip install pentad-weather" in done.sentence()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("medical", "predict", "in", "-o", "out", "--model", "x", "--sharrd", "1/2"), "--sharrd"),
        (("medical", "predict", "in", "-o", "out", "--model", "x", "--workers", "none"), "--workers"),
        (("medical", "predict", "in", "-o", "out"), "--model"),
        (("medical", "predikt"), "predikt"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(arguments, named):
    done = call(*arguments)
    assert done.code == 2
    assert named in done.sentence()


UNFORESEEN = """
import sys
from pentad.core import cli

@cli.app.command()
def fail():
    raise KeyError("Kowalczyk")

@cli.app.command()
def interrupted():
    raise KeyboardInterrupt

sys.argv = ["pentad", *sys.argv[1:]]
cli.main()
"""


def unforeseen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", UNFORESEEN, *arguments], capture_output=True, text=True)


def test_an_error_nobody_foresaw_is_one_sentence_without_its_message():
    done = unforeseen("fail")
    assert done.returncode == 1
    assert re.fullmatch(r"PTD-101 unexpected KeyError in <string>, line 7; .*\.\n", done.stderr)
    assert "Kowalczyk" not in done.stdout + done.stderr


def test_debugging_shows_the_whole_trace_of_an_unforeseen_error():
    done = unforeseen("-vv", "fail")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_interrupt_ends_with_130():
    done = unforeseen("interrupted")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("--help"), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_the_system_is_one_sentence_that_names_the_file(tmp_path):
    (tmp_path / "metrics.json").write_text('{"data": "synthetic", "headline": "liver_dice", "models": {}}')
    (tmp_path / "file").write_text("")
    done = call("results", tmp_path, "-o", tmp_path / "file" / "row.md")
    assert done.code == 2
    assert "file" in done.sentence()


def test_doctor_tells_versions_and_operators():
    told = dict(line.split(maxsplit=1) for line in call("doctor").out.splitlines())
    assert {"pentad-core", "pentad-medical", "python", "torch", "GPU", "domains", "dvc"} <= set(told)
    assert "medical" in told["domains"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("plan", "{tmp}"), "PTD-224"),
        (("plan", "{tmp}/none"), "PTD-224"),
        (("results", "{tmp}", "-o", "{tmp}/row.md"), "PTD-223"),
        (("merge", "{tmp}", "-o", "{tmp}/merged"), "PTD-253"),
        (("parity", "{tmp}/none.json"), "PTD-"),
        (("samples", "{tmp}/file/below"), "PTD-"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments, code, tmp_path):
    (tmp_path / "file").write_text("")
    done = call(*(part.format(tmp=tmp_path) for part in arguments))
    assert done.code == 2
    assert code in done.sentence()
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_results_write_a_row_a_model_from_the_metrics(tmp_path):
    entry = '{"value": 0.91234, "low": 0.9, "high": 0.925, "n": 6}'
    (tmp_path / "metrics.json").write_text(
        f'{{"data": "synthetic", "headline": "liver_dice", "models": {{"net": {{"liver_dice": {entry}}}}}}}'
    )
    assert call("results", tmp_path, "-o", tmp_path / "row.md").code == 0
    assert "| synthetic | net | 6 | 0.912 [0.900, 0.925] |" in (tmp_path / "row.md").read_text()


def test_the_plan_of_the_liver_pipeline_names_every_stage():
    done = run("plan", CHECKOUT / "pipelines" / "liver_seg")
    assert done.code == 0, done.err
    stages = {line.split()[0].partition("@")[0] for line in done.out.splitlines()}
    assert stages == {"prepare", "plan", "train", "evaluate", "threshold", "predict", "report"}


@pytest.mark.parametrize(
    ("flags", "level"),
    [((), logging.INFO), (("-v",), logging.INFO), (("-vvv",), logging.DEBUG), (("-q", "-v"), logging.ERROR)],
)
def test_flags_decide_what_the_packages_log(flags, level, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pentad"), "level", logging.NOTSET)
    call(*flags, "folds", tmp_path / "none", "-o", tmp_path / "out")
    assert logging.getLogger("pentad").level == level


def test_figures_are_compared_in_float64_unless_told():
    files = [CHECKOUT / "tests" / "reference" / "mamba_block.json"]
    assert "in float64: all within tolerance" in call("parity", *files).out


def test_doctors_columns_stand_below_each_other(monkeypatch):
    monkeypatch.setattr("pentad.core.doctor.findings", lambda: [("a", "one"), ("longer", "two")])
    assert call("doctor").out == "a       one\nlonger  two\n"


def test_a_wrong_option_is_told_with_its_command():
    assert call("nlp", "predict", "--nonsense").sentence().startswith("PTD-226 pentad nlp predict: ")
    assert call("--nonsense").sentence().startswith("PTD-226 pentad: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("odd words"), "PTD-100 a file: odd words; check"),
        (OSError(28, "No space left on device", "x.bin"), "PTD-100 x.bin: No space left on device; check"),
    ],
)
def test_an_error_of_the_system_says_what_it_knows(error, words, tmp_path, monkeypatch):
    def fail(pipeline, out):
        raise error

    monkeypatch.setattr("pentad.core.results.write_row", fail)
    done = call("results", tmp_path, "-o", tmp_path / "row.md")
    assert done.code == 2
    assert done.sentence().startswith(words)
