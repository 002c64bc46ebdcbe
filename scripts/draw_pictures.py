"""Draw one picture a domain from the synthetic samples, as the packages' own pages draw them: docs/pictures.

    python scripts/draw_pictures.py [DATA] [OUT]

No trained model is used: CT and images are worked on by the baselines without weights (threshold, differencing); of
sounds, sweeps and texts the samples' own labels are drawn.
"""

from __future__ import annotations

import csv
import html
import sys
from pathlib import Path

import numpy as np
import rasterio
import torch
from matplotlib.figure import Figure

from pentad.audio.events import SoundEvent
from pentad.audio.frontends import FrontEnd, log_mel
from pentad.audio.overview import Overview
from pentad.audio.predict import WindowScores
from pentad.audio.waveform import read
from pentad.core.files import atomic, write_text
from pentad.core.report import PALETTE, style
from pentad.medical.ingest import find_cases, load_scan
from pentad.medical.page import three_planes
from pentad.medical.predictors import load_predictor
from pentad.medical.selection import SelectionRules
from pentad.medical.volumes import canonical
from pentad.nlp.conll import blocks
from pentad.point_clouds.frames import PointConfig, load_points, read_frame, to_objects
from pentad.point_clouds.outputs import draw
from pentad.remote_sensing.differencing import difference_strips
from pentad.remote_sensing.raster import open_pair

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = 6


def medical(data: Path) -> Figure:
    """Outlines of the threshold baseline on one CT study."""
    cases, _ = find_cases([data / "medical/liver/studies/liver-001"], SelectionRules(), None, hide=True)
    scan = load_scan(cases[0]).volume
    image, turned = canonical(scan)
    label = load_predictor("threshold").run(scan).label
    shown, _ = canonical(type(scan)(label, scan.affine))
    assert turned is not None
    return three_planes(image.array, shown.array, image.spacing)


def audio(data: Path) -> Figure:
    """Spectrogram and labelled events of a minute of sounds."""
    folder = data / "audio/sounds"
    with (folder / "recordings.tsv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["filename"] == "minute.wav"]
    events = [SoundEvent(float(row["onset"]), float(row["offset"]), row["event_label"], 1.0) for row in rows]
    _, samples = read(folder / "recordings/minute.wav", 32_000)
    features = FrontEnd(log_mel())(torch.from_numpy(samples)[None])[0].numpy()
    empty = np.zeros((1, 1), np.float32)
    overview = Overview(len(samples) / 32_000, 32_000)
    overview.add(WindowScores(0, len(samples), empty[0], empty, empty[0], features))
    return overview.draw(events, sorted({event.label for event in events}))


def point_clouds(data: Path) -> Figure:
    """A street from above with its labelled objects."""
    span = (-32.0, -32.0, -4.0, 32.0, 32.0, 2.4)
    frame = read_frame(data / "point_clouds/streets/frames/street-001.json")
    points, _ = load_points(frame, PointConfig(), span)
    objects = to_objects(frame)
    with style():
        drawing = draw(points, objects, sorted(set(objects.classes)), span)
    drawing.set_size_inches(5.5, 5.5)
    return drawing


def remote_sensing(data: Path) -> Figure:
    """Two dates of one place, and what differencing calls changed."""
    folder = data / "remote_sensing/building_change"
    pair = [next((folder / date).glob("scene-001.*")) for date in "AB"]
    with open_pair(*pair) as opened:
        changed = np.concatenate([strip.probability for strip in difference_strips(opened)])
    with style():
        drawing = Figure(figsize=(9, 3.4), layout="constrained")
        titles = ("before", "after", "changed, says differencing")
        for axes, path, title in zip(drawing.subplots(1, 3), (*pair, pair[1]), titles, strict=True):
            with rasterio.open(path) as source:
                axes.imshow(np.moveaxis(source.read([1, 2, 3]), 0, -1), interpolation="nearest")
            axes.set_title(title)
            axes.set_axis_off()
        axes.contour(changed > 0.5, levels=[0.5], colors=[PALETTE[1]], linewidths=1.0)
    return drawing


def nlp(data: Path) -> str:
    """Sentences with their labelled entities, as SVG: a browser shapes the letters of every script."""
    colours: dict[str, str] = {}
    text = (data / "nlp/entities/test.conll").read_text(encoding="utf-8")
    lines = [line for block in blocks(text) if 3 < len(line := sentence(block.rows, colours)) < 2000][:SENTENCES]
    size = f'width="900" height="{34 * len(lines) + 16}"'
    rows = "".join(f'<text x="12" y="{34 * (row + 1)}">{line}</text>\n' for row, line in enumerate(lines))
    fonts = 'font-family="Noto Sans, Noto Sans Devanagari, sans-serif" font-size="17" fill="#222"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {fonts}>\n<rect {size} fill="white"/>\n{rows}</svg>\n'


def sentence(rows: list[tuple[str, ...]], colours: dict[str, str]) -> str:
    """Return one sentence's words, those of entities in their type's colour with its name behind."""
    parts = []
    for place, (word, tag) in enumerate(rows):
        kind = tag.partition("-")[2]
        if not kind:
            parts.append(html.escape(word))
            continue
        colour = colours.setdefault(kind, PALETTE[len(colours) % len(PALETTE)])
        last = place + 1 == len(rows) or rows[place + 1][1] != f"I-{kind}"
        name = f'<tspan font-size="10" dy="-6"> {kind}</tspan><tspan dy="6"> </tspan>' if last else ""
        parts.append(f'<tspan font-weight="bold" fill="{colour}">{html.escape(word)}{name}</tspan>')
    return " ".join(parts)


def main() -> None:
    """Draw all of them."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs/pictures"
    for make in (medical, audio, point_clouds, remote_sensing):
        with atomic(out / f"{make.__name__}.png") as file:
            make(data).savefig(file, dpi=80, facecolor="white", metadata={"Software": None})
    write_text(out / "nlp.svg", nlp(data))


if __name__ == "__main__":
    main()
