from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from audio.conftest import RATE, tone

from pentad.audio.dataset import TARGET_RATE, AugmentConfig, ClipConfig, Clips
from pentad.audio.losses import masked
from pentad.core.cases import Case
from pentad.core.errors import UsageError

NOTHING = AugmentConfig(gain_db=0, roll=0, noise=0, mixup=0)


@pytest.fixture
def case(tmp_path):
    """Three seconds of silence with a tone from 1 to 1.5 s."""
    wave = np.zeros(3 * RATE)
    wave[RATE : RATE + RATE // 2] = tone(400, 0.5)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    return Case(id="a", files={"audio": str(tmp_path / "a.wav")}, target={"labels": ["b"], "events": [[1.0, 1.5, "b"]]})


def clips(case, **changes):
    augmentation = AugmentConfig(**{**NOTHING.__dict__, **changes})
    return Clips([case], ClipConfig(("a", "b"), RATE, 3 * RATE, False, 0, augmentation))


def test_targets_over_time_lie_where_the_event_does(case):
    active = clips(case)[0]["active"]
    assert active.shape == (3 * TARGET_RATE, 2)
    assert active[:, 1].nonzero()[[0, -1], 0].tolist() == [100, 149]
    assert active[:, 0].sum() == 0


def test_a_turn_in_time_moves_sound_and_targets_together(case):
    for number in range(4):
        sample = clips(case, roll=1.0)[number]
        loud = sample["wave"].reshape(-1, RATE // TARGET_RATE).abs().amax(1) > 0.05
        assert (loud.float() - sample["active"][:, 1]).abs().mean() < 0.02


def test_a_sample_depends_on_its_number_alone(case):
    one, other = (clips(case, roll=1.0, noise=1.0, mixup=1.0, gain_db=6.0) for _ in range(2))
    other[5]
    assert torch.equal(one[2]["wave"], other[2]["wave"])
    assert not torch.equal(one[2]["wave"], one[3]["wave"])


def test_specaugment_hides_at_most_what_it_may():
    torch.manual_seed(0)
    features = torch.rand(32, 100, 20)
    hidden = masked(features, AugmentConfig(frequency_mask=5, time_mask=0.1)) != features
    assert (hidden.all(dim=2).sum(1) <= 10).all()
    assert (hidden.all(dim=1).sum(1) <= 5).all()
    assert hidden.any()


def test_no_recording_to_train_on_is_refused():
    with pytest.raises(UsageError, match="PTD-734"):
        Clips([], ClipConfig(("a",), RATE, RATE, False))
