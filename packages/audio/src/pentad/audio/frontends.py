"""The published front-ends: waveforms to log-mel features (batch, frame, mel bin), batched and differentiable.

- ``kaldi_fbank``: AST's Kaldi filter bank (Gong et al., Interspeech 2021).
- ``log_mel``: HTS-AT's decibels on the Slaney scale (Chen et al., ICASSP 2022).
- ``preemphasis_mel``: PaSST's pre-emphasised Kaldi mel (Koutini et al., Interspeech 2022).

Constants are kept in float64, so that a front-end moved to float64 computes the published figures in full; those that
the published code rounds to float32 are rounded here too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.errors import CaseError, UsageError

Kind = Literal["kaldi_fbank", "log_mel", "preemphasis_mel"]

KALDI_FLOOR = 1.1920928955078125e-07
_DECIBEL_FLOOR = 1e-10
_PASST_OFFSET = 1e-5
_PREEMPHASIS = 0.97
# FFT bins, 31.25 Hz apart, whose published float32 logarithm is not the nearest number but the one beyond the value.
_SPACING = 31.25
_ROUNDED_BEYOND = (
    *(8, 13, 31, 38, 56, 57, 91, 93, 98, 100, 116, 148, 216, 218, 221, 225, 236, 240, 243, 245, 252, 316, 367, 385),
    *(387, 415, 437, 472, 475, 476, 485, 499, 501, 502, 504),
)


@dataclass(frozen=True)
class FrontEndConfig:
    """What makes features comparable: it travels with the model."""

    kind: Kind
    """Which published front-end."""
    sample_rate: int
    """Of the waveform, Hz; a recording of another rate is resampled first."""
    mel_bins: int
    """Triangles of the filter bank."""
    n_fft: int
    """Samples of a transform."""
    window: int
    """Samples of the Hann window, at most n_fft."""
    hop: int
    """Samples from frame to frame."""
    fmin: float
    """Lower edge of the first triangle, Hz."""
    fmax: float
    """Upper edge of the last, Hz; above half the rate the upper triangles stay empty."""
    mean: float = 0.0
    """kaldi_fbank alone: mean of the log-mel over the training data."""
    std: float = 0.5
    """kaldi_fbank alone: features are (log-mel - mean) / (2 std)."""

    def __post_init__(self) -> None:
        sizes = (self.sample_rate, self.mel_bins, self.n_fft, self.window, self.hop)
        if min(sizes) < 1 or self.window > self.n_fft or not 0 <= self.fmin < self.fmax or not self.std > 0:
            raise UsageError("PTD-700", f"a front-end of {self}", "give positive sizes, window <= n_fft, fmin < fmax")

    @property
    def shortest(self) -> int:
        """Samples that a waveform must have at least."""
        return self.window if self.kind == "kaldi_fbank" else self.n_fft // 2 + 2

    def frames(self, samples: int) -> int:
        """Return how many frames a waveform of so many samples gives."""
        if self.kind == "kaldi_fbank":
            return 1 + (samples - self.window) // self.hop
        return 1 + (samples - (self.kind == "preemphasis_mel")) // self.hop


def kaldi_fbank(mean: float = -4.2677393, std: float = 4.5689974) -> FrontEndConfig:
    """Return AST's front-end at 16 kHz, normalised for AudioSet unless told otherwise."""
    return FrontEndConfig("kaldi_fbank", 16_000, 128, 512, 400, 160, 20.0, 8_000.0, mean, std)


def log_mel() -> FrontEndConfig:
    """Return HTS-AT's front-end at 32 kHz."""
    return FrontEndConfig("log_mel", 32_000, 64, 1024, 1024, 320, 50.0, 14_000.0)


def preemphasis_mel(fmax: float = 15_000.0) -> FrontEndConfig:
    """Return PaSST's front-end at 32 kHz; 15 kHz is the upper edge of every published recipe."""
    return FrontEndConfig("preemphasis_mel", 32_000, 128, 1024, 800, 320, 0.0, fmax)


class FrontEnd(nn.Module):
    """Waveforms (batch, samples) in -1 … 1 → features (batch, frames, mel bins).

    Args:
        config: Which front-end, and its sizes.
        dtype: Precision of its constants.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: FrontEndConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        for name, tensor in _constants(config).items():
            self.register_buffer(name, tensor.to(dtype), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return normalised features.

        Raises:
            CaseError: A waveform is shorter than one frame.
        """
        return self.normalise(self.log_mel(waveform))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Return log-mel energies (batch, frames, mel bins) before normalisation."""
        config = self.config
        if waveform.shape[-1] < config.shortest:
            problem = f"{waveform.shape[-1]} samples are less than one frame of {config.shortest}"
            raise CaseError("PTD-701", problem, "give a longer recording")
        mel = self.power(waveform) @ self.filters
        if config.kind == "kaldi_fbank":
            return mel.clamp(min=KALDI_FLOOR).log()
        if config.kind == "log_mel":
            return 10 * mel.clamp(min=_DECIBEL_FLOOR).log10()
        return (mel + _PASST_OFFSET).log()

    def normalise(self, log_mel: Tensor) -> Tensor:
        """Return features as the network takes them; HTS-AT's own batch norm does it for ``log_mel``."""
        config = self.config
        if config.kind == "kaldi_fbank":
            return (log_mel - config.mean) / (2 * config.std)
        return (log_mel + 4.5) / 5 if config.kind == "preemphasis_mel" else log_mel

    @property
    def padding_value(self) -> float:
        """What stands for frames that are not there: AST pads the log-mel with 0, the others hear silence."""
        config = self.config
        if config.kind == "kaldi_fbank":
            return -config.mean / (2 * config.std)
        return -100.0 if config.kind == "log_mel" else (math.log(_PASST_OFFSET) + 4.5) / 5

    def pad(self, features: Tensor, frames: int) -> Tensor:
        """Return features (batch, frames, mel bins) with padding at the end up to ``frames``."""
        missing = frames - features.shape[1]
        return nn.functional.pad(features, (0, 0, 0, missing), value=self.padding_value) if missing > 0 else features

    def power(self, waveform: Tensor) -> Tensor:
        """Return power spectra (batch, frames, n_fft // 2 + 1)."""
        config = self.config
        if config.kind == "kaldi_fbank":
            spectrum: Tensor = torch.fft.rfft(self.kaldi_frames(waveform), n=config.n_fft)
            return spectrum.abs().square()
        if config.kind == "preemphasis_mel":
            waveform = self.preemphasised(waveform)
        spectrum = torch.stft(
            waveform,
            config.n_fft,
            config.hop,
            config.window,
            self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return spectrum.real.square().add(spectrum.imag.square()).transpose(1, 2)

    def preemphasised(self, waveform: Tensor) -> Tensor:
        """Return y[n] = x[n+1] - 0.97 x[n], one sample shorter, with the float32 value of 0.97."""
        return waveform[..., 1:] - float(np.float32(_PREEMPHASIS)) * waveform[..., :-1]

    def kaldi_frames(self, waveform: Tensor) -> Tensor:
        """Return whole frames (batch, frames, window), each centred, pre-emphasised and windowed."""
        waveform = waveform - waveform.mean(-1, keepdim=True)
        frames = waveform.unfold(-1, self.config.window, self.config.hop)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        return (frames - _PREEMPHASIS * before) * self.window


def _constants(config: FrontEndConfig) -> dict[str, Tensor]:
    """Window and filters of a front-end in float64."""
    if config.kind == "log_mel":
        window = torch.hann_window(config.window, periodic=True, dtype=torch.float64)
        return {"window": window, "filters": torch.from_numpy(slaney_filters(config)).double()}
    # PaSST's window is float32 from the start; AST's follows the waveform's precision.
    dtype = torch.float64 if config.kind == "kaldi_fbank" else torch.float32
    window = torch.hann_window(config.window, periodic=False, dtype=dtype).double()
    return {"window": window, "filters": kaldi_filters(config).double()}


def kaldi_filters(config: FrontEndConfig) -> Tensor:
    """Return Kaldi's triangles (n_fft // 2 + 1, mel bins) in float32: 1127 ln(1 + f/700), peak 1, no Nyquist bin.

    The published matrix is float32 at every step, and the last digit of a float32 logarithm differs from processor to
    processor, which a narrow triangle turns into 1e-5. So it is rounded here, on every machine as in the figures.
    """
    single = np.float32
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (config.fmin, config.fmax))
    step = single((high - low) / (config.mel_bins + 1))
    spacing = config.sample_rate / config.n_fft
    hertz = single(spacing) * np.arange(config.n_fft // 2, dtype=single)
    exact = np.log((single(1) + hertz / single(700.0)).astype(np.float64))
    logarithm = exact.astype(single)
    if spacing == _SPACING:
        beyond = [number for number in _ROUNDED_BEYOND if number < len(exact)]
        away = np.where(exact > logarithm, np.inf, -np.inf).astype(single)
        logarithm[beyond] = np.nextafter(logarithm, away)[beyond]
    mels = (single(1127.0) * logarithm)[:, None]
    left, centre, right = (
        single(low) + (np.arange(config.mel_bins, dtype=single) + single(k)) * step for k in range(3)
    )
    triangles = np.maximum(single(0), np.minimum((mels - left) / (centre - left), (right - mels) / (right - centre)))
    return torch.from_numpy(np.pad(triangles, ((0, 1), (0, 0))))


def slaney_filters(config: FrontEndConfig) -> NDArray[np.float32]:
    """Return Slaney's triangles (n_fft // 2 + 1, mel bins), of equal area, computed in float64 and rounded.

    Slaney, Auditory Toolbox (1998): linear to 1 kHz, 27 steps an octave and a bit (6.4 times) above.
    """
    logarithmic = math.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) / logarithmic

    mels = np.linspace(to_mel(config.fmin), to_mel(config.fmax), config.mel_bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(logarithmic * (mels - 15)))
    bins = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    # The published matrix rounds the triangles before it scales them, so that some entries differ in their last digit.
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return np.asarray(triangles * (2 / (edges[2:] - edges[:-2])), dtype=np.float32)
