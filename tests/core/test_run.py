import random
import re
import subprocess

import numpy as np
import pytest
import torch

import pentad.core
from pentad.core import run
from pentad.core.errors import CaseError, ModelError, NoInputError, UsageError, nearest
from pentad.core.run import code_version, environment, pick_device, provenance, seed_everything


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_one_seed_gives_one_sequence_everywhere():
    seed_everything(4)
    first = draws()
    seed_everything(4)
    assert draws() == first


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99", "cpu0"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match=f"'{name}'"):
        pick_device(name)


def test_the_cpu_is_always_there():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")


def test_repeatable_algorithms_do_not_cost_a_fill_of_every_new_tensor():
    seed_everything(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_provenance_names_code_seed_and_digests():
    statement = provenance(seed=3, model="ab", data="cd")
    assert statement["code"] == code_version()
    assert (statement["seed"], statement["model"], statement["data"]) == (3, "ab", "cd")
    assert len(code_version()["source"]) == 16
    assert environment()["torch"].startswith(torch.__version__.split("+")[0])


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (CaseError, 3), (NoInputError, 4), (ModelError, 5)])
def test_an_error_is_one_sentence_with_place_and_remedy(error, code):
    raised = error("PTD-999", "the scan is flat", "use a deeper one", "scan 3")
    assert str(raised) == "PTD-999 scan 3: the scan is flat; use a deeper one."
    assert raised.exit_code == code


def test_the_nearest_name_is_offered_only_where_one_is_near():
    assert nearest("modle", ["model", "data"]) == " (did you mean 'model'?)"
    assert nearest("zzz", ["model", "data"]) == ""


def test_a_domains_results_state_its_own_code_and_cores_alone():
    stated = code_version("medical")
    assert sorted(stated) == ["pentad-core", "pentad-medical", "source"]
    assert stated["source"] not in {code_version()["source"], code_version("audio")["source"]}


def test_a_device_is_the_cpu_or_a_cuda_device_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [str(pick_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(UsageError, match=r"PTD-221 'cuda:2' is not on this machine \(2 CUDA devices\)"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(pick_device("cuda")) == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="PTD-221 'cuda'"):
        pick_device("cuda")


def test_a_commit_is_told_where_there_is_one(monkeypatch, tmp_path):
    run.git_commit.cache_clear()
    monkeypatch.setattr(pentad.core, "__path__", [str(tmp_path)])
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "state"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch(r"[0-9a-f]{12}", run.git_commit())
    run.git_commit.cache_clear()
    monkeypatch.setattr(run.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert run.git_commit() == ""
    run.git_commit.cache_clear()


def test_provenance_without_a_seed_states_none():
    assert set(provenance("medical", model="ab")) == {"code", "model"}
    assert provenance(seed=0)["seed"] == 0
    assert {"pentad-core", "pentad-nlp", "source"} <= set(code_version())
