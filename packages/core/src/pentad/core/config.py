"""Strict configuration: one params.yaml section to one frozen dataclass or pydantic model."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from pentad.core.errors import UsageError, nearest

T = TypeVar("T")

_shown = reprlib.Repr()  # a value in a sentence: a few lines of YAML can stand for gigabytes
_shown.maxstring = _shown.maxother = 100
_shown.maxlevel = 2


def load_params(path: Path, section: str, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Build ``cls`` from one section of a params.yaml.

    Args:
        path: The YAML file.
        section: Name of the top-level section.
        cls: A frozen dataclass or pydantic model; nested ones are built too.
        overrides: ``field=value`` or ``nested.field=value`` with YAML values, applied on top.

    Raises:
        UsageError: The file or the section is missing, a key is unknown or stands twice, a value does not fit.
    """
    sections = read_params(path)
    if section not in sections:
        raise UsageError(
            "PTD-212", f"no section '{section}'{nearest(section, sections)}", "add it or name another", path
        )
    where = f"{path}, {section}"
    values = _mapping(sections[section], where)
    for override in overrides:
        _override(values, override)
    return from_mapping(cls, values, where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping of settings; nothing is an empty one."""
    if value is not None and not isinstance(value, Mapping):
        problem = f"{_shown.repr(value)} is no mapping of settings"
        raise UsageError("PTD-213", problem, "write 'name: value' lines", where)
    return dict(value or {})


def _override(values: dict[str, Any], override: str) -> None:
    """Set one ``field=value`` in a mapping of settings."""
    where = f"--set {override[:100]}"
    key, sign, text = override.partition("=")
    if not sign:
        raise UsageError("PTD-214", "it gives no value", "write name=value", where)
    *parents, last = key.split(".")
    for parent in parents:
        values[parent] = _mapping(values.get(parent), where)
        values = values[parent]
    values[last] = _load_yaml(text, where, "correct the value, or put it in quotes")


class _Strict(yaml.SafeLoader):
    """YAML without what would go wrong in silence: of two equal keys the later would win, and NaN passes any limit."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(problem=f"'{key.value}' stands twice in one mapping")
                seen.add(key.value)
        return node

    def construct_finite(self, node: yaml.ScalarNode) -> float:
        number = self.construct_yaml_float(node)
        if not math.isfinite(number):
            raise yaml.constructor.ConstructorError(problem=f"'{node.value}' is no finite number")
        return number


_Strict.add_constructor("tag:yaml.org,2002:float", _Strict.construct_finite)


def _load_yaml(text: str, where: str | Path, remedy: str) -> Any:
    try:
        return yaml.load(text, _Strict)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a day there never was, a number of 5,000 digits
        problem = " ".join(str(error).split())
    except RecursionError:
        problem = "nested too deeply"
    raise UsageError("PTD-211", f"not valid YAML ({problem})", remedy, where)


def read_params(path: Path) -> dict[str, Any]:
    """Read a params.yaml as a mapping of sections.

    Raises:
        UsageError: The file is missing or is no YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "PTD-210", f"cannot be read ({error.strerror})", "correct the path of --params", path
        ) from None
    except UnicodeDecodeError as error:
        problem = " ".join(str(error).split())
        raise UsageError("PTD-211", f"not valid YAML ({problem})", "correct the file", path) from None
    content = _load_yaml(text, path, "correct the file")
    if not isinstance(content, dict):
        raise UsageError("PTD-211", "not a mapping of sections", "write 'section:' lines with settings below", path)
    return content


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build ``cls`` from a mapping; unknown keys fail and name the nearest field, at every depth.

    Raises:
        UsageError: A key is unknown or missing, or a value does not fit its field.
    """
    if not isinstance(values, Mapping):
        raise UsageError(
            "PTD-213", f"{_shown.repr(values)} is no mapping of settings", "write 'name: value' lines", where
        )
    _forbid_unknown_keys(cls, values, where)
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = f"{name} {first['msg']}, not {_shown.repr(first.get('input'))}" if name else str(first["msg"])
        remedy = "correct the setting"
        if first["type"] == "string_type":  # YAML takes 0 for a number and OFF for a truth value
            problem = problem.replace("[key] ", "the name before the colon: ")
            remedy = "put it in quotes, or correct the setting"
        raise UsageError("PTD-214", problem.rstrip("."), remedy, where) from None


def _field_types(cls: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    return {}


def _forbid_unknown_keys(cls: Any, values: Mapping[str, Any], where: str) -> None:
    # pydantic's adapter over a plain dataclass drops unknown keys in silence: a typo would train the default.
    types = _field_types(cls)
    for key, value in values.items():
        if key not in types:
            key = str(key)[:100]
            hint = nearest(key, types) or f" (known: {', '.join(types)})"
            raise UsageError("PTD-215", f"unknown setting '{key}'{hint}", "correct or remove it", where)
        for inner in (types[key], *get_args(types[key])):
            if _field_types(inner) and isinstance(value, Mapping):
                _forbid_unknown_keys(inner, value, f"{where}.{key}")


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values, for files and digests."""
    mapping = TypeAdapter(type(config)).dump_python(config, mode="json")
    if not isinstance(mapping, dict):
        raise TypeError(f"{type(config).__name__} is not a configuration")
    return mapping
