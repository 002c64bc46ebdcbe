from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel

from pentad.core.config import from_mapping, load_params, to_mapping
from pentad.core.errors import UsageError


@dataclass(frozen=True)
class Optimiser:
    learning_rate: float = 0.01


@dataclass(frozen=True)
class Training:
    steps: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    patch: tuple[int, ...] = (8, 8)
    extra: Optimiser | None = None


class Strict(BaseModel):
    name: str = "x"


def write(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_a_section_becomes_the_dataclass_with_nested_parts(tmp_path):
    path = write(tmp_path, "train:\n  steps: 3\n  optimiser: {learning_rate: 0.5}\n  patch: [4, 6]\n")
    assert load_params(path, "train", Training) == Training(3, Optimiser(0.5), (4, 6))


def test_overrides_win_at_every_depth(tmp_path):
    path = write(tmp_path, "train: {steps: 3}\n")
    loaded = load_params(path, "train", Training, ["steps=9", "optimiser.learning_rate=1e-3"])
    assert loaded == Training(9, Optimiser(0.001))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {step: 3}", r"unknown setting 'step' \(did you mean 'steps'\?\)"),
        (
            "train: {steps: 3, optimiser: {learning_rat: 1}}",
            "train.optimiser: unknown setting 'learning_rat'.*learning_rate",
        ),
        ("train: {steps: 3, extra: {lr: 1}}", "unknown setting 'lr'"),
        ("train: {steps: many}", "steps .*integer.*'many'"),
        ("train: {}", "steps Field required|steps Missing"),
        ("training: {steps: 3}", r"no section 'train' \(did you mean 'training'\?\)"),
        ("train: [1, 2", "not valid YAML"),
        ("just text", "not a mapping of sections"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_params(write(tmp_path, text), "train", Training)
    assert "\n" not in str(caught.value)


def test_pydantic_models_are_strict_too():
    with pytest.raises(UsageError, match="did you mean 'name'"):
        from_mapping(Strict, {"nam": "y"}, "here")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_params(tmp_path / "params.yaml", "train", Training)


def test_a_configuration_survives_the_way_through_json():
    config = Training(5, Optimiser(0.1), (1, 2, 3))
    assert from_mapping(Training, to_mapping(config), "") == config
