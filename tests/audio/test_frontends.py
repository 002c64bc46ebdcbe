from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio

from pentad.audio.frontends import FrontEnd, FrontEndConfig, kaldi_fbank, log_mel, preemphasis_mel
from pentad.core.errors import CaseError, UsageError

PRESETS = (kaldi_fbank, log_mel, preemphasis_mel)


@pytest.fixture
def waves():
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (3, 20_000))).float()


def test_the_kaldi_front_end_equals_torchaudios_clip_by_clip(waves):
    settings = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0}
    theirs = [
        torchaudio.compliance.kaldi.fbank(wave[None] - wave.mean(), sample_frequency=16_000, frame_shift=10, **settings)
        for wave in waves
    ]
    assert (FrontEnd(kaldi_fbank()).log_mel(waves) - torch.stack(theirs)).abs().max() < 2e-3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_gives_what_its_clips_give_alone(preset, waves):
    front = FrontEnd(preset())
    together, alone = front(waves), torch.cat([front(wave[None]) for wave in waves])
    assert (together - alone).abs().max() < 1e-4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("samples", [1600, 3201, 16_000])
def test_the_count_of_frames_is_foretold(preset, samples):
    front = FrontEnd(preset())
    assert front(torch.randn(1, samples)).shape[1] == front.config.frames(samples)


@pytest.mark.parametrize("preset", PRESETS)
def test_features_are_differentiable(preset, waves):
    waves.requires_grad_()
    FrontEnd(preset())(waves).sum().backward()
    assert waves.grad.abs().sum() > 0


def test_padding_is_the_published_value_of_each():
    values = [FrontEnd(preset()).padding_value for preset in PRESETS]
    assert values == pytest.approx([0.467, -100.0, -1.4026], abs=1e-3)


def test_too_few_samples_for_a_frame_are_refused():
    with pytest.raises(CaseError, match="PTD-701 100 samples are less than one frame of 400"):
        FrontEnd(kaldi_fbank())(torch.zeros(1, 100))


def test_an_impossible_front_end_is_refused():
    with pytest.raises(UsageError, match="PTD-700"):
        FrontEndConfig("log_mel", 16_000, 64, 512, 1024, 160, 0, 8000)
