"""A small example of every domain: three inputs and an untrained bundle, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from medical.tiny_cases import GRID, tiny_ct
from remote_sensing.rasters import picture, write_raster

from pentad.audio.frontends import FrontEndConfig
from pentad.audio.models.cnn import CNN, CNNConfig
from pentad.audio.predict import Settings as AudioSettings
from pentad.audio.predict import WindowConfig
from pentad.core.bundle import save_bundle
from pentad.medical.fingerprint import Intensity
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.plan import Normalisation
from pentad.medical.predict import Settings as MedicalSettings
from pentad.medical.preprocess import Preprocessing
from pentad.medical.volumes import Volume, write_nifti
from pentad.nlp.dataset import TextConfig
from pentad.nlp.learning import EncoderChoice
from pentad.nlp.models.bert_cnn import BertCnn, BertCnnConfig
from pentad.nlp.predict import Settings as TextSettings
from pentad.nlp.tokenizer import FILE, PieceTokenizer, learn
from pentad.point_clouds.decoding import DecodeConfig
from pentad.point_clouds.frames import PointConfig
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models import MODELS as POINT_MODELS
from pentad.point_clouds.predict import Settings as PointSettings
from pentad.point_clouds.train import build
from pentad.remote_sensing.dataset import Scaling
from pentad.remote_sensing.models.fc_siam import FCSiamConc, FCSiamConfig
from pentad.remote_sensing.predict import Settings as PairSettings
from pentad.remote_sensing.predict import TileConfig
from pentad.remote_sensing.raster import PairConfig
from pentad.remote_sensing.tasks import TASKS

DOMAINS = ("audio", "medical", "nlp", "point-clouds", "remote-sensing")
CLASSES = {
    "audio": CNN,
    "medical": DynUNet,
    "nlp": BertCnn,
    "point-clouds": POINT_MODELS["point_pillars"][1],
    "remote-sensing": FCSiamConc,
}
LICENCES = {"code": "Apache-2.0", "weights": "CC-BY-4.0", "data": "CC0-1.0"}


@dataclass(frozen=True)
class Example:
    """What a domain's commands are called with."""

    domain: str
    inputs: Path
    bundle: Path
    word: str = ""

    def predict(self, out: Path, *options: object) -> tuple[object, ...]:
        """The words of a batch run with the bundle."""
        order = (self.domain, "predict", self.inputs, "-o", out, "--model", self.bundle, "--device", "cpu", "--quiet")
        return (*order, *options)


class Trap:
    """What a pickle makes that touches a file where a careless program loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def example(domain: str, folder: Path, word: str = "") -> Example:
    """Write the example of a domain below ``folder``.

    Args:
        domain: Its command.
        folder: Where.
        word: Goes into the inputs' names and is the name of a class, where the model has any.
    """
    made = Example(domain, folder / "inputs", folder / "bundle", word)
    made.inputs.mkdir(parents=True)
    torch.manual_seed(0)
    _WRITERS[domain](made)
    return made


def _save(made: Example, name: str, model: torch.nn.Module, settings: dict[str, object], **more: object) -> None:
    about = {"card": "# Untrained", "provenance": {"seed": 0}, "licences": LICENCES}
    domain = made.domain.replace("-", "_")
    save_bundle(made.bundle, model, domain=domain, name=name, settings=settings, **about, **more)


def _audio(made: Example) -> None:
    for number in range(3):
        wave = 0.1 * np.random.default_rng(number).standard_normal(6000)
        soundfile.write(made.inputs / f"{made.word}sound{number}.wav", wave, 8000)
    front = FrontEndConfig(
        kind="log_mel", sample_rate=8000, mel_bins=16, n_fft=256, window=256, hop=80, fmin=50, fmax=4000
    )
    settings = AudioSettings(
        front, (made.word or "high", "low"), WindowConfig(window_s=0.5, hop_s=0.25), exclusive=True
    )
    _save(made, "cnn", CNN(CNNConfig(classes=2, mel_bins=16, channels=(4, 8), time_pooling=4)), settings.to_mapping())


def _medical(made: Example) -> None:
    for number in range(3):
        write_nifti(made.inputs / f"{made.word}scan{number}.nii.gz", Volume(tiny_ct(number), GRID))
    shape = {"kernel_sizes": ((3, 3, 3),) * 3, "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)), "features": (4, 8, 8)}
    window = Normalisation("ct", intensity=Intensity(90.0, 40.0, 95.0, -100.0, 300.0, low=-50.0, high=200.0))
    ready = Preprocessing((4.0, 2.0, 2.0), (0, 1, 2), window)
    settings = MedicalSettings({made.word or "liver": 1, "lesion": 2}, ready, (8, 16, 16))
    _save(made, "dynunet", DynUNet(DynUNetConfig(1, 3, **shape)), settings.to_mapping())


def _nlp(made: Example) -> None:
    texts = ["the red fox bites", "the blue bird sings", "सुनेला कामो हसले"]
    for number, text in enumerate(texts):
        lines = [f"{text} {made.word}", *["and more"] * 99]
        (made.inputs / f"{made.word}text{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    choice = EncoderChoice(vocabulary=200, hidden=16, layers=2, heads=2, inner=32)
    pieces = PieceTokenizer(learn(texts * 4, choice.vocabulary, choice.pieces))
    labels = (made.word or "HATE", "NOT")
    config = BertCnnConfig(labels, choice.values(pieces.size, 24, pieces.pad), layers=2, filters=4)
    settings = TextSettings("classes", labels, TextConfig(max_length=24, stride=4))
    _save(made, "bert_cnn", BertCnn(config), settings.to_mapping(), extra={FILE: pieces.text})


def _point_clouds(made: Example) -> None:
    for number in range(3):
        points = np.random.default_rng(number).uniform((-30, -30, -2, 0), (30, 30, 2, 1), (2000, 4))
        points.astype("<f4").tofile(made.inputs / f"{made.word}sweep{number}.bin")
    shape = {
        "pillar_widths": [8],
        "backbone": {"widths": [4, 8], "depths": [0, 0], "strides": [2, 2], "neck_widths": [4, 4]},
        "head": {"width": 8, "branch_width": 4, "velocity": False, "iou": False},
    }
    model = build("point_pillars", shape, GridConfig((-32, -32, -4, 32, 32, 2.4), (2.0, 2.0)), 3, "example")
    decode = DecodeConfig(min_score=0.01, candidates=40, overlap=(0.2,), before=(40,), after=(10,))
    settings = PointSettings((made.word or "car", "pedestrian", "cyclist"), PointConfig(sweeps=1), decode)
    _save(made, "point_pillars", model, settings.to_mapping())


def _remote_sensing(made: Example) -> None:
    for number in range(3):
        for date in "AB":
            write_raster(made.inputs / date / f"{made.word}scene{number}.tif", picture(3, seed=number))
    settings = PairSettings(Scaling((100.0,) * 3, (50.0,) * 3), TileConfig(32), PairConfig(), "bcd", ())
    model = FCSiamConc(FCSiamConfig((4, 8), heads=TASKS["bcd"].heads))
    _save(made, "fc_siam_conc", model, settings.to_mapping())


_WRITERS: dict[str, Callable[[Example], None]] = {
    "audio": _audio,
    "medical": _medical,
    "nlp": _nlp,
    "point-clouds": _point_clouds,
    "remote-sensing": _remote_sensing,
}
