"""Perturbations are what their names promise, to the decibel and the sample."""

from __future__ import annotations

import numpy as np
import pytest

from wav2small import operations, voice
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


def test_packets_are_lost_in_bursts():
    changed = operations.packet_loss(np.ones(320 * 20000, np.float32), rng(), share=0.2, burst=4)
    lost = changed.reshape(-1, 320).max(axis=1) == 0
    assert lost.mean() == pytest.approx(0.2, abs=0.02)
    starts = np.sum(lost[1:] & ~lost[:-1])
    assert lost.sum() / starts == pytest.approx(4, rel=0.1)


def test_a_low_rate_leaves_nothing_above_its_half(clip):
    changed = operations.narrow(clip, 2000)
    assert spectrum_db(changed, 1100, 8000) < spectrum_db(clip, 1100, 8000) - 40
    assert spectrum_db(changed, 100, 800) == pytest.approx(spectrum_db(clip, 100, 800), abs=0.2)


def test_a_denoiser_leaves_isolated_peaks_of_the_noise():
    signal = np.zeros(64000, np.float32)
    signal[:32000] = 0.1 * np.sin(np.arange(32000) * 2 * np.pi * 400 / 16000)
    noisy = operations.white_noise(signal, rng(), snr_db=10)
    left = operations.enhanced(signal, rng(), snr_db=10)
    quiet = slice(36000, 60000)
    assert rms(left[quiet]) < 0.6 * rms(noisy[quiet])  # it removes noise, and what stays ...
    kurtosis = [np.mean(f**4) / np.mean(f**2) ** 2 for f in map(bands, (noisy[quiet], left[quiet]))]
    assert kurtosis[1] > 2 * kurtosis[0]  # ... stands out: tones that come and go
    assert rms(left[2000:30000]) == pytest.approx(rms(signal[2000:30000]), rel=0.1)


def bands(signal):
    import scipy.signal

    return np.abs(scipy.signal.stft(signal, nperseg=400)[2])


def resonances(signal, order):
    """Angles of the poles of linear prediction over the full signal, by least squares."""
    rows = np.lib.stride_tricks.sliding_window_view(signal, order + 1)
    prediction = np.linalg.lstsq(rows[:, :-1][:, ::-1], rows[:, -1], rcond=None)[0]
    angles = np.angle(np.roots(np.r_[1, -prediction]))
    return np.sort(angles[angles > 1e-3])


@pytest.mark.parametrize("coefficient", [0.7, 0.8, 0.9])
def test_mcadams_raises_the_angle_of_each_formant_to_its_power(coefficient):
    import scipy.signal

    formants = np.array([500.0, 1500.0, 3500.0]) * 2 * np.pi / 16000  # .20, .59, 1.37 radians
    poles = 0.97 * np.exp(1j * np.r_[formants, -formants])
    signal = scipy.signal.lfilter([1], np.poly(poles).real, rng().standard_normal(64000))
    np.testing.assert_allclose(resonances(signal, 6), formants, rtol=0.03)
    changed = voice.mcadams(signal, coefficient, order=6)
    expected = np.sort(formants**coefficient)
    np.testing.assert_allclose(resonances(changed, 6), expected, rtol=0.04)
    assert rms(changed) == pytest.approx(rms(signal), rel=1e-6)


@pytest.mark.parametrize("semitones", [-3, 3])
def test_a_shift_moves_pitch_and_formants_together(semitones):
    time = np.arange(32000) / 16000
    vowel = sum(np.sin(2 * np.pi * 120 * n * time) / n for n in (1, 2, 3, 10))
    changed = voice.shift(vowel, semitones)
    assert len(changed) == len(vowel)
    lines = [np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() / 2 for x in (vowel, changed)]
    assert lines[1] / lines[0] == pytest.approx(2 ** (semitones / 12), rel=0.01)
    top = [np.abs(np.fft.rfft(x * np.hanning(len(x))))[1600:].argmax() / 2 + 800
           for x in (vowel, changed)]  # fmt: skip
    assert top[1] / top[0] == pytest.approx(2 ** (semitones / 12), rel=0.01)


def test_dropouts_lose_their_share_in_frames_of_20_ms():
    changed = operations.dropouts(np.ones(320 * 5000, np.float32), rng(), share=0.05)
    frames = changed.reshape(-1, 320)
    assert set(np.unique(frames.mean(1))) == {0.0, 1.0}
    assert np.mean(frames[:, 0] == 0) == pytest.approx(0.05, abs=0.01)
