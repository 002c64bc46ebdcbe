"""A trained model as a folder: weights, configuration, settings, card and digests, loaded only if all agree."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

import huggingface_hub
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from pentad.core import config as configuration
from pentad.core.checkpoint import load_strict, own_tensors, read_checkpoint, write_tensors
from pentad.core.errors import ModelError, PentadError, UsageError, nearest
from pentad.core.files import digest_file, digest_json, write_json, write_text

log = logging.getLogger(__name__)

FORMAT = "pentad-bundle/1"
WEIGHTS, CONFIG, MANIFEST, CARD = "model.safetensors", "config.json", "bundle.json", "README.md"
LICENCES = ("code", "weights", "data")
TERMS = "## Licences"
"""Heading of the card's last section, which states what `bundle.json` does."""
_DOWNLOADED = (WEIGHTS, "*.json", CARD)
_FIELDS = {"format", "domain", "model", "settings", "files", "provenance", "licences", "digest"}
M = TypeVar("M", bound=nn.Module)


class PublishedModel(nn.Module, PyTorchModelHubMixin):
    """A model that `save_pretrained`, `push_to_hub` and `from_pretrained` take with its configuration.

    The mixin alone leaves the nested tuples of a configuration as lists, drops unknown settings and lets weights be
    missing; here the configuration is as strict as a params.yaml and the weights must fit one to one.

    Args:
        config: The frozen dataclass that decides the model's tensors; a subclass annotates its own.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def _save_pretrained(self, save_directory: Path) -> None:
        write_json(save_directory / CONFIG, configuration.to_mapping(self.config))
        write_tensors(save_directory / WEIGHTS, own_tensors(self))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *, local_files_only: bool = False, revision: str | None = None
    ) -> Self:
        """Return the model of a folder or hub id, on the CPU and in evaluation mode.

        Args:
            pretrained_model_name_or_path: Folder, or OWNER/NAME on the hub.
            local_files_only: Use what was downloaded before, without any network.
            revision: Branch, tag or commit on the hub.

        Raises:
            ModelError: Nothing is there, or configuration and weights do not fit this class.
        """
        folder = _find(str(pretrained_model_name_or_path), offline=local_files_only, revision=revision)
        return _build(cls, folder)


@dataclass(frozen=True)
class Bundle:
    """A loaded model and all that a predictor needs beside it."""

    model: nn.Module
    """On the CPU, in evaluation mode."""
    name: str
    """The architecture's name in the domain's table of models."""
    settings: dict[str, Any]
    """Classes, preprocessing, post-processing, as saved."""
    digest: str
    """SHA-256 over weights, configuration, settings and provenance."""
    folder: Path
    provenance: dict[str, Any]
    licences: dict[str, str]


def save_bundle(  # noqa: PLR0913 - what a bundle must state, each by its name
    folder: Path,
    model: nn.Module,
    *,
    domain: str,
    name: str,
    settings: Mapping[str, Any],
    card: str,
    provenance: Mapping[str, Any],
    licences: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> str:
    """Write the model as a folder that `load_bundle` takes, whole or not at all, and return its digest.

    Of several training processes only the first writes; the others return an empty digest.

    Args:
        folder: Where; must not hold anything unless `overwrite`.
        model: With its configuration, a frozen dataclass, in the attribute `config`.
        domain: Package that can use it, for instance 'medical'.
        name: The architecture's name in that package's table of models.
        settings: JSON values that the predictor needs: classes, preprocessing, post-processing.
        card: The model card's text in Markdown; the licences are added at its end.
        provenance: What `pentad.core.run.provenance` returns.
        licences: Of 'code', 'weights' and 'data'; one not given reads 'not stated'.
        extra: Further JSON files by name, such as 'tokenizer.json', with their text; their digests count too.
        overwrite: Replace a bundle that is there; anything else is never replaced.

    Raises:
        UsageError: The folder is taken, or cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        return ""
    folder = folder.absolute()
    check_target(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as name_of_part:
            part = Path(name_of_part) / "bundle"
            write_json(part / CONFIG, configuration.to_mapping(getattr(model, "config")))  # noqa: B009 - any module
            write_tensors(part / WEIGHTS, own_tensors(model))
            terms = {kind: (licences or {}).get(kind, "not stated") for kind in LICENCES}
            write_text(part / CARD, _with_terms(card, terms))
            for file, text in (extra or {}).items():
                write_text(part / file, text)
            manifest = {
                "format": FORMAT,
                "domain": domain,
                "model": name,
                "settings": dict(settings),
                # The card is left out: its words may be mended without making another model of it.
                "files": {file: digest_file(part / file) for file in (WEIGHTS, CONFIG, *(extra or {}))},
                "provenance": dict(provenance),
                "licences": terms,
            }
            manifest = json.loads(json.dumps(manifest, allow_nan=False))
            digest = digest_json(manifest)
            write_json(part / MANIFEST, {**manifest, "digest": digest})
            if folder.exists():
                folder.rename(Path(name_of_part) / "replaced")
            part.rename(folder)
    except OSError as error:
        raise UsageError(
            "PTD-509", f"the bundle cannot be written ({error.strerror})", "choose another folder", folder
        ) from None
    return digest


def _with_terms(card: str, terms: Mapping[str, str]) -> str:
    lines = "".join(f"- {kind}: {text}\n" for kind, text in terms.items())
    return f"{card.rstrip()}\n\n{TERMS}\n\n{lines}"


def check_target(folder: Path, *, overwrite: bool) -> None:
    """See that a bundle may be written to ``folder``, before the hours that it takes to train one.

    Raises:
        UsageError: Something is there, or with ``overwrite`` something that is no bundle.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise UsageError("PTD-508", "the folder holds something already", "choose another, or say overwrite", folder)
    if not (folder / MANIFEST).is_file():
        raise UsageError("PTD-508", "there is something that is no bundle", "choose another folder", folder)


def load_bundle(
    source: str | Path,
    domain: str,
    models: Mapping[str, type[nn.Module]],
    *,
    offline: bool = False,
    expect_digest: str = "",
) -> Bundle:
    """Return the bundle of a folder or hub id after checking every digest.

    Args:
        source: Folder (never touches the network), or OWNER/NAME on the hub, with @REVISION if wanted.
        domain: Package that asks.
        models: That package's architectures by name.
        offline: Take a hub id only from what was downloaded before.
        expect_digest: Refuse any other bundle.

    Raises:
        ModelError: One sentence for what is missing, damaged, of another domain or architecture, or does not fit.
    """
    folder, manifest = check_bundle(source, domain, models, offline=offline, expect_digest=expect_digest)
    return Bundle(
        model=_build(models[manifest["model"]], folder),
        name=manifest["model"],
        settings=manifest["settings"],
        digest=manifest["digest"],
        folder=folder,
        provenance=manifest["provenance"],
        licences=manifest["licences"],
    )


def check_bundle(
    source: str | Path, domain: str, names: Iterable[str], *, offline: bool = False, expect_digest: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Return folder and manifest of a bundle after all of `load_bundle`'s checks but that of the weights' shapes.

    Files are read for their digests, no model is built: what a dry run can afford.

    Args:
        source: As for `load_bundle`.
        domain: Package that asks.
        names: That package's architectures.
        offline: As for `load_bundle`.
        expect_digest: As for `load_bundle`.

    Raises:
        ModelError: As `load_bundle`.
    """
    folder = bundle_folder(source, offline=offline)
    manifest = _checked_manifest(folder)
    if expect_digest and manifest["digest"] != expect_digest:
        problem = f"its digest is {manifest['digest'][:12]}…, not {expect_digest[:12]}…"
        raise ModelError("PTD-504", problem, "choose the bundle with the digest asked for", folder)
    if manifest["domain"] != domain:
        problem = f"a bundle of '{manifest['domain']}', not of '{domain}'"
        raise ModelError("PTD-505", problem, f"use it with 'pentad {manifest['domain']}'", folder)
    known = list(names)
    if manifest["model"] not in known:
        hint = nearest(manifest["model"], known) or f" (known: {', '.join(known)})"
        problem = f"its architecture '{manifest['model']}' is not among those of {domain}{hint}"
        raise ModelError("PTD-506", problem, f"install the pentad-{domain} that made it", folder)
    return folder, manifest


def bundle_folder(source: str | Path, *, offline: bool = False) -> Path:
    """Return where the files of a bundle lie on this machine; as in `load_bundle`, but nothing is checked or read.

    Raises:
        ModelError: There is no such folder, and no such model on the hub.
    """
    return _fetched(source, offline, _DOWNLOADED)


def peek_manifest(source: str | Path, *, offline: bool = False) -> dict[str, Any]:
    """Return what a bundle says of itself, as `read_manifest` does; of one on the hub nothing else is fetched.

    Raises:
        ModelError: There is no such bundle.
    """
    return read_manifest(_fetched(source, offline, [MANIFEST]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a bundle's folder says of itself, without loading weights or checking digests.

    Raises:
        ModelError: There is no bundle, or one of a format that this version does not know.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("PTD-501", f"no {MANIFEST} in it", "give the folder of a bundle", folder) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("PTD-502", f"{MANIFEST} cannot be read ({error})", "fetch the bundle again", folder) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ModelError(
            "PTD-502", f"its format is {found!r}, not '{FORMAT}'", "install the pentad that made it", folder
        )
    absent = _FIELDS - set(manifest)
    if absent or not isinstance(manifest["files"], dict):
        problem = f"{MANIFEST} lacks {', '.join(sorted(absent)) or 'digests by file'}"
        raise ModelError("PTD-502", problem, "fetch the bundle again", folder)
    return manifest


def _checked_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    body = {key: value for key, value in manifest.items() if key != "digest"}
    damaged = [] if digest_json(body) == manifest.get("digest") else [MANIFEST]
    for file in dict.fromkeys((WEIGHTS, CONFIG, *manifest["files"])):
        path = folder / Path(file).name  # a manifest from elsewhere must not lead out of its folder
        if not path.is_file():
            raise ModelError("PTD-503", f"{file} is missing", "fetch the bundle again", folder)
        if not damaged and digest_file(path) != manifest["files"].get(file):
            damaged.append(file)
    if damaged:
        problem = f"{damaged[0]} is not as it was saved (its digest differs)"
        raise ModelError("PTD-503", problem, "fetch the bundle again", folder)
    return manifest


def _fetched(source: str | Path, offline: bool, wanted: Sequence[str]) -> Path:
    if Path(source).exists():
        return _find(str(source), offline=offline, revision=None, wanted=wanted)
    name, _, revision = str(source).partition("@")
    return _find(name, offline=offline, revision=revision or None, wanted=wanted)


def _find(source: str, *, offline: bool, revision: str | None, wanted: Sequence[str] = _DOWNLOADED) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source) or folder.exists():
        raise ModelError("PTD-500", "no such folder", "give the folder of a bundle, or OWNER/NAME on the hub", source)
    try:
        found = huggingface_hub.snapshot_download(
            source, revision=revision, allow_patterns=list(wanted), local_files_only=offline
        )
    except Exception as error:  # the client passes on whatever its transport raises
        log.debug("cannot fetch %s", source, exc_info=True)
        if offline:
            problem, remedy = "neither a folder nor downloaded before", "download it once without --offline"
        else:
            problem = f"neither a folder nor to be had from the hub ({type(error).__name__})"
            remedy = "correct the name, or connect to the network"
        raise ModelError("PTD-500", problem, remedy, source) from None
    return Path(found)


def _build(cls: type[M], folder: Path) -> M:
    """Return a model of the class with the folder's configuration and weights."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = configuration.from_mapping(get_type_hints(cls.__init__)["config"], values, str(path))
        model = cls(config)
    except ModelError:
        raise
    except PentadError as error:
        problem = f"its configuration does not fit {cls.__name__}: {error.problem}"
        raise ModelError("PTD-507", problem, "install the version that made it", path) from None
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        problem = f"no {cls.__name__} can be built from it ({' '.join(str(error).split())})"
        raise ModelError("PTD-507", problem, "fetch the bundle again", path) from None
    load_strict(model, read_checkpoint(folder / WEIGHTS), where=folder)
    return model.eval()
