"""Perturbations are what their names promise, to the decibel and the sample."""

from __future__ import annotations

import numpy as np
import pytest

from wav2small import operations
from wav2small.benchmarks.audit import perturbations as p
from wav2small.operations import synthetic_rooms

SOUNDS = p.Sounds(
    voices=[np.random.default_rng(i).standard_normal(20000).astype(np.float32) for i in range(8)],
    backgrounds=[np.random.default_rng(9).standard_normal(5000).astype(np.float32)],
    events=[np.random.default_rng(10).standard_normal(3000).astype(np.float32)],
    rooms=synthetic_rooms(),
)


def rng():
    return np.random.default_rng(1)


def rms(x):
    return np.sqrt(np.mean(np.asarray(x, np.float64) ** 2))


def snr(signal, changed):
    return 20 * np.log10(rms(signal) / rms(changed - signal))


def spectrum_db(signal, low, high):
    power = np.abs(np.fft.rfft(signal)) ** 2
    frequencies = np.fft.rfftfreq(len(signal), 1 / 16000)
    return 10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean())


@pytest.mark.parametrize("name", p.CONDITIONS)
def test_pure_repeatable_and_audible(clip, name):
    condition, before = p.CONDITIONS[name], clip.copy()
    first = condition.apply(clip, (0, 1), SOUNDS)
    again = condition.apply(clip, (0, 1), SOUNDS)
    assert np.array_equal(clip, before)
    assert np.array_equal(first, again)
    assert first.dtype == np.float32 and first.ndim == 1 and np.isfinite(first).all()
    assert len(first) != len(clip) or not np.array_equal(first, clip)
    assert not np.shares_memory(first, clip)


def test_choices_are_drawn_per_clip(clip):
    lengths = {
        len(p.CONDITIONS["append-zeros"].apply(clip, (0, row), SOUNDS)) - len(clip)
        for row in range(40)
    }
    assert lengths == {100, 500, 1000}


@pytest.mark.parametrize(
    "function, options",
    [
        (operations.white_noise, {}),
        (operations.pink_noise, {}),
        (operations.babble, {"voices": SOUNDS.voices}),
        (operations.background, {"noises": SOUNDS.backgrounds}),
    ],
)
@pytest.mark.parametrize("snr_db", [40, 20, 0])
def test_signal_to_noise_ratio(clip, function, options, snr_db):
    changed = function(clip, rng(), snr_db=snr_db, **options)
    assert snr(clip, changed) == pytest.approx(snr_db, abs=0.05)
    assert len(changed) == len(clip)


def test_tone_is_one_line_at_its_peak_ratio(clip):
    added = operations.tone(clip, rng(), snr_db=40) - clip
    assert np.abs(added).max() == pytest.approx(np.abs(clip).max() / 100, rel=0.01)
    line = np.abs(np.fft.rfft(added * np.hanning(len(added)))).argmax() * 16000 / len(added)
    assert 5000 < line < 7000


@pytest.mark.parametrize(
    "function, samples, expected",
    [
        (operations.append_zeros, 100, lambda x: np.r_[x, np.zeros(100)]),
        (operations.prepend_zeros, 100, lambda x: np.r_[np.zeros(100), x]),
        (operations.crop_beginning, 100, lambda x: x[100:]),
        (operations.crop_end, 100, lambda x: x[:-100]),
    ],
)
def test_to_the_sample(clip, function, samples, expected):
    assert np.array_equal(function(clip, rng(), samples=samples), expected(clip))


@pytest.mark.parametrize("function", [operations.crop_beginning, operations.crop_end])
def test_crops_leave_half_of_a_short_clip(function):
    assert len(function(np.ones(1600, np.float32), rng(), samples=1000)) == 800


def test_clip_cuts_the_share(clip):
    changed = operations.clip(clip, rng(), share=0.003)
    assert np.mean(changed != clip) == pytest.approx(0.003, abs=0.0005)


def test_gain_and_level(clip):
    assert 20 * np.log10(rms(operations.gain(clip, rng(), db=-2)) / rms(clip)) == pytest.approx(
        -2, abs=1e-3
    )
    quiet = operations.level(clip, rng(), peak_db=-40)
    assert np.abs(quiet).max() == pytest.approx(0.01, rel=0.01)
    assert np.array_equal(quiet * 32768, np.round(quiet * 32768))


@pytest.mark.parametrize(
    "function, hz, low, high",
    [(operations.highpass, 150, 150, 151), (operations.lowpass, 6500, 6500, 6510)],
)
def test_filters_are_3_db_down_at_their_corner(function, hz, low, high):
    impulse = np.zeros(160000, np.float32)
    impulse[0] = 1
    assert spectrum_db(function(impulse, rng(), hz=hz), low, high) == pytest.approx(-3, abs=0.1)


def test_event_touches_only_its_place(clip):
    changed = operations.event(clip, rng(), snr_db=10, noises=SOUNDS.events)
    touched = np.flatnonzero(changed != clip)
    assert touched[-1] - touched[0] < 3000
    part = slice(touched[0], touched[-1] + 1)
    noise = (changed - clip)[part]
    assert 20 * np.log10(rms(clip) / rms(noise)) == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize("db", [-15, 15])
def test_tilt_is_linear_in_decibels(db):
    signal = (rng().standard_normal(160000) * 0.05).astype(np.float32)
    changed = operations.tilt(signal, rng(), db=db)
    slope = [spectrum_db(changed, hz, hz + 200) - spectrum_db(signal, hz, hz + 200)
             for hz in (1000, 3000, 5000, 7000)]  # fmt: skip
    assert np.diff(slope) == pytest.approx([db / 4] * 3, abs=0.3)
    assert rms(changed) == pytest.approx(rms(signal), rel=1e-3)


def test_room_keeps_time_and_level_and_adds_a_tail():
    burst = np.zeros(32000, np.float32)
    burst[4000:4800] = 0.1 * rng().standard_normal(800)
    wet = operations.room(burst, rng(), responses=[synthetic_rooms()[3]])
    assert len(wet) == len(burst)
    assert rms(wet) == pytest.approx(rms(burst), rel=1e-3)
    assert rms(wet[:3990]) < 1e-6 < rms(wet[5000:9000])
    assert rms(wet[5000:7000]) > 5 * rms(wet[12000:14000])


def test_phone_is_narrow_band(clip):
    received = operations.phone(clip, rng())
    assert len(received) == len(clip)
    inside = spectrum_db(received, 500, 3000)
    assert spectrum_db(received, 5000, 7500) < inside - 15
    # The codec delays nothing by more than a frame: the envelope is that of the clip.
    envelope = [np.add.reduceat(np.abs(x), np.arange(0, len(x), 800)) for x in (received, clip)]
    assert np.corrcoef(*envelope)[0, 1] > 0.9


def test_dropouts_lose_their_share_in_frames_of_20_ms():
    changed = operations.dropouts(np.ones(320 * 5000, np.float32), rng(), share=0.05)
    frames = changed.reshape(-1, 320)
    assert set(np.unique(frames.mean(1))) == {0.0, 1.0}
    assert np.mean(frames[:, 0] == 0) == pytest.approx(0.05, abs=0.01)
