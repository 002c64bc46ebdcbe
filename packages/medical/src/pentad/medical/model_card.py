"""The model card beside the results of a batch run, so that a reader of a page finds what the model is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pentad.core.report import Block, Notice, Table, Text, write_page
from pentad.core.run import code_version
from pentad.medical.predictors import BASELINES, baseline_digest, sources_of


def write_model_card(path: Path, source: str) -> None:
    """Write the cards of all models that ``source`` names as one page.

    Args:
        path: The HTML file.
        source: As for `pentad.medical.predictors.load_predictor`, which has found the models before.
    """
    blocks: list[Block] = [Notice("Research use only", "Not a medical device; not for diagnosis.")]
    digests = {}
    for name in sources_of(source):
        if name in BASELINES:
            digests[name] = baseline_digest()
            blocks.append(Text(name, ["A baseline without weights: rules about intensities, here for comparison."]))
            continue
        heading, digest, more = _bundle(name)
        digests[heading] = digest
        blocks += more
    write_page(path, "Model card", blocks, {"models": digests, "code": code_version("medical")})


def _bundle(source: str) -> tuple[str, str, Sequence[Block]]:
    from pentad.core.bundle import CARD, TERMS, bundle_folder, read_manifest

    # It was fetched by now, if it came from the hub: the network is not asked again.
    folder = bundle_folder(source, offline=True)
    manifest = read_manifest(folder)
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else "No card came with this model."
    paragraphs = [" ".join(part.split()) for part in text.partition(TERMS)[0].split("\n\n") if part.strip()]
    stated = {**manifest["licences"], "made by": json.dumps(manifest["provenance"].get("code", {}))}
    licences = Table(["licence of", "is"], [[name, str(value)] for name, value in stated.items()])
    return str(manifest["model"]), str(manifest["digest"]), [Text(str(manifest["model"]), paragraphs), licences]
