"""Read sound files of any rate, length and number of channels: mono float32 at the model's rate, block by block.

Mono is the mean of all channels, the low-frequency one of a surround recording included. Resampling is soxr's high
quality, streamed, so that a file of hours takes no more memory than one of seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pentad.core.errors import CaseError

Samples = NDArray[np.float32]

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".caf", ".au")
SHORTEST_S = 0.05
_BLOCK_S = 10.0
_FULL_SCALE = 0.9999
_CLIPPED_SHARE = 1e-3
# How libsndfile's log tells it of WAV and CAF, AIFF, AU and W64, in this order.
_CUT = re.compile(r"\b(?:data|SSND|Data Size|riff)\s*:\s*(\d+)\s*\(should be (\d+)\)")
_LOWEST_RATE = 1000


@dataclass(frozen=True)
class Header:
    """What a sound file says of itself."""

    rate: int
    """Samples a second."""
    channels: int
    samples: int
    """Of each channel; compressed formats may state it only roughly."""

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples / self.rate


@dataclass
class Signal:
    """What was met while a file was read."""

    header: Header
    rate: int
    """To which it was resampled."""
    samples: int = 0
    """Read of each channel, at the file's rate."""
    full: int = 0
    """Of those, at full scale in any channel."""
    low: float = field(default=np.inf)
    high: float = field(default=-np.inf)

    def flags(self) -> list[str]:
        """Return what a person should know: resampled, mixed down, cut-off highs, clipping."""
        found = []
        if self.header.rate != self.rate:
            found.append(f"resampled_from_{self.header.rate}_hz")
        if self.header.rate < self.rate:
            found.append("narrow_band")  # nothing above half its rate can be heard in it
        if self.header.channels > 1:
            found.append(f"mean_of_{self.header.channels}_channels")
        if self.full > _CLIPPED_SHARE * max(self.samples, 1):
            found.append("clipped")
        return found


def read_header(path: Path) -> Header:
    """Return a sound file's rate, channels and length.

    Raises:
        CaseError: It is missing, empty, no sound file, of a rate at which nothing is heard, or ends before its header
            says.
    """
    try:
        if path.stat().st_size == 0:
            raise CaseError("PTD-711", "the file is empty", "record or copy it again", path.name)
        info = soundfile.info(str(path), verbose=True)
    except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
        problem = f"cannot be read ({getattr(error, 'strerror', '') or 'no such file'})"
        raise CaseError("PTD-712", problem, "correct the path or its permissions", path.name) from None
    except soundfile.LibsndfileError as error:
        raise _undecodable(path, error) from None
    if info.frames == 0 or info.samplerate <= 0:
        raise CaseError("PTD-711", "the file holds no samples", "record or copy it again", path.name)
    if info.samplerate < _LOWEST_RATE:
        problem = f"its header states {info.samplerate} samples a second"
        raise CaseError("PTD-718", problem, "correct its sample rate, or record it again", path.name)
    # libsndfile reads a cut-off file without compression as a shorter one and says so in its log alone.
    if (cut := _CUT.search(info.extra_info or "")) and int(cut[2]) < int(cut[1]):
        raise _cut_off(path, int(cut[2]), int(cut[1]), "bytes")
    return Header(int(info.samplerate), int(info.channels), int(info.frames))


def _undecodable(path: Path, error: Exception) -> CaseError:
    reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
    remedy = "convert it to WAV or FLAC, or leave it out"
    return CaseError("PTD-713", f"no sound file that can be decoded ({reason})", remedy, path.name)


def _cut_off(path: Path, have: float, want: float, unit: str) -> CaseError:
    return CaseError(
        "PTD-714", f"it ends after {have:.6g} of {want:.6g} {unit}", "copy the whole file again", path.name
    )


def stream(path: Path, rate: int, block_s: float = _BLOCK_S) -> tuple[Signal, Iterator[Samples]]:
    """Return what is met while reading, filled as the blocks are drawn, and the blocks: mono at ``rate``.

    Args:
        path: The file.
        rate: Samples a second to resample to.
        block_s: Seconds that are in memory at once.

    Raises:
        CaseError: From this call, the header is unusable; from the blocks, the file ends early or cannot be decoded, a
            sample is no finite number, or, at the end, there is too little or nothing to hear.
    """
    header = read_header(path)
    signal = Signal(header, rate)
    return signal, _blocks(path, signal, max(1, int(block_s * header.rate)))


def _blocks(path: Path, signal: Signal, size: int) -> Iterator[Samples]:
    header = signal.header
    resampler = None
    if header.rate != signal.rate:
        resampler = soxr.ResampleStream(header.rate, signal.rate, 1, dtype="float32", quality="HQ")
    for block in _decoded(path, size):
        mono = _note(path, signal, block)
        out = mono if resampler is None else resampler.resample_chunk(mono)
        if len(out):
            yield out
    _check_end(path, signal)
    if resampler is not None and len(tail := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield tail


def _decoded(path: Path, size: int) -> Iterator[Samples]:
    """Blocks (samples, channels) as decoded."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block
    except soundfile.LibsndfileError as error:
        raise _undecodable(path, error) from None
    except RuntimeError as error:
        raise _undecodable(path, error) from None


def _note(path: Path, signal: Signal, block: Samples) -> Samples:
    """The block's mean over channels, after a look at its values."""
    # Reductions over a short last axis are slow: the whole block is looked at first, its rows only where need be.
    low, high = float(block.min()), float(block.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        place = (signal.samples + int(np.argmax(~np.isfinite(block).all(axis=1)))) / signal.header.rate
        problem = f"a sample at {place:.3f} s is no finite number"
        raise CaseError("PTD-715", problem, "export the recording again", path.name)
    signal.samples += len(block)
    if max(-low, high) >= _FULL_SCALE:
        signal.full += int(np.count_nonzero((np.abs(block) >= _FULL_SCALE).any(axis=1)))
    mono = block[:, 0].copy()
    for channel in range(1, block.shape[1]):
        mono += block[:, channel]
    mono /= block.shape[1]
    signal.low, signal.high = min(signal.low, float(mono.min())), max(signal.high, float(mono.max()))
    return mono


def _check_end(path: Path, signal: Signal) -> None:
    header = signal.header
    # MP3 and raw streams may state their length only roughly; the others mean it.
    if signal.samples < header.samples and path.suffix.lower() != ".mp3":
        raise _cut_off(path, signal.samples / header.rate, header.seconds, "s")
    if signal.samples < SHORTEST_S * header.rate:
        problem = f"{signal.samples} samples, less than {SHORTEST_S:g} s"
        raise CaseError("PTD-716", problem, "leave it out: there is nothing to hear in it", path.name)
    if signal.low == signal.high:
        problem = f"every sample is {signal.low:.4g}"
        raise CaseError("PTD-717", problem, "check the microphone and the export", path.name)


def read(path: Path, rate: int) -> tuple[Signal, Samples]:
    """Return a whole file, mono at ``rate``, and what was met.

    Raises:
        CaseError: As for `stream`.
    """
    signal, blocks = stream(path, rate)
    parts = list(blocks)
    return signal, np.concatenate(parts) if parts else np.zeros(0, np.float32)
