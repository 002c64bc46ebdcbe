import random

import numpy as np
import pytest
import torch

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
