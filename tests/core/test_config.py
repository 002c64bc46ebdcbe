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
        ("train: [1, 2]", r"PTD-213 .*\[1, 2\] is no mapping of settings"),
        ("train: {steps: 3, steps: 4}", "PTD-211 .*'steps' stands twice"),
        ("train: {steps: 3, optimiser: {learning_rate: .nan}}", "PTD-211 .*'.nan' is no finite number"),
        ("train: {steps: 3, optimiser: {learning_rate: -.inf}}", "PTD-211 .*'-.inf' is no finite number"),
        ("train: {steps: 2026-02-30}", "PTD-211 .*day"),
        ("train: " + "[" * 600, "PTD-211 .*nested too deeply"),
        ('train: {steps: 3, "a\\e[31m\\nb": 1}', r"unknown setting 'a\\x1b\[31m\\nb'"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_params(write(tmp_path, text), "train", Training)
    assert "\n" not in str(caught.value)


def test_a_value_that_a_few_lines_make_endless_is_shown_in_short(tmp_path):
    lines = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    lines += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(UsageError, match="PTD-214") as caught:
        load_params(write(tmp_path, lines + "train: {steps: *a29}\n"), "train", Training)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "PTD-214 .*write name=value"),
        ("patch.x=1", r"PTD-213 .*\[8, 8\] is no mapping of settings"),
        ("patch=[1", "PTD-211 --set patch=.*not valid YAML"),
    ],
)
def test_a_wrong_override_is_named_in_one_sentence(tmp_path, override, message):
    with pytest.raises(UsageError, match=message):
        load_params(write(tmp_path, "train: {steps: 3, patch: [8, 8]}"), "train", Training, [override])


def test_pydantic_models_are_strict_too():
    with pytest.raises(UsageError, match="did you mean 'name'"):
        from_mapping(Strict, {"nam": "y"}, "here")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_params(tmp_path / "params.yaml", "train", Training)


def test_a_configuration_survives_the_way_through_json():
    config = Training(5, Optimiser(0.1), (1, 2, 3))
    assert from_mapping(Training, to_mapping(config), "") == config
