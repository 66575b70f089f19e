"""Operations on the voice, against tones and contours that are known."""

import numpy as np
import pytest

from wav2small import voice
from wav2small.spectrum import pitch, power_spectra

RATE = 16000


def _tone(f0: np.ndarray) -> np.ndarray:
    """A voice-like tone of ten harmonics that follows a contour in Hz, one value per sample."""
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, 11)) * 0.1


def _f0(signal: np.ndarray) -> np.ndarray:
    f0, periodicity = pitch(power_spectra(signal))
    return f0[periodicity > 0.5][5:-5]


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_stretch_changes_the_duration_alone(factor):
    signal = _tone(np.full(2 * RATE, 150.0))
    out = voice.stretch(signal, factor)
    assert len(out) == round(factor * len(signal))
    assert np.median(_f0(out)) == pytest.approx(150.0, rel=0.02)
    inner = slice(RATE // 10, -RATE // 10)
    assert np.sqrt(np.mean(out[inner] ** 2)) == pytest.approx(np.sqrt(np.mean(signal**2)), rel=0.05)


def test_stretch_by_one_is_the_signal():
    signal = np.random.default_rng(0).normal(size=RATE)
    np.testing.assert_allclose(voice.stretch(signal, 1.0), signal, atol=1e-9)


@pytest.mark.parametrize("db", [-6.0, 6.0])
def test_effort_tilts(db):
    white = np.random.default_rng(1).normal(size=4 * RATE)
    spectrum = np.abs(np.fft.rfft(voice.effort(white, db))) ** 2
    hertz = np.fft.rfftfreq(4 * RATE, 1 / RATE)
    bands = [spectrum[(hertz > f) & (hertz < 1.1 * f)].mean() for f in (500, 1000, 2000, 4000)]
    np.testing.assert_allclose(np.diff(10 * np.log10(bands)), db, atol=0.5)
    assert np.mean(spectrum) * 2 / len(white) == pytest.approx(2 * np.mean(white**2), rel=0.01)


@pytest.mark.parametrize("exponent", [0.6, 1.5])
def test_dynamics_scale_the_loudness_contour(exponent):
    steps = np.repeat([1.0, 0.1], RATE)  # 20 dB apart
    out = voice.dynamics(steps, exponent)
    levels = 20 * np.log10(out[[RATE // 2, RATE + RATE // 2]])
    np.testing.assert_allclose(levels, [0.0, -20.0 * exponent], atol=0.1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.8])
def test_intonation_scales_the_range_of_f0(factor):
    time = np.arange(3 * RATE) / RATE
    semitones = 2 * np.sin(2 * np.pi * 0.7 * time)
    signal = _tone(160 * 2 ** (semitones / 12))
    out = voice.intonation(signal, factor)
    assert len(out) == len(signal)
    before, after = (np.std(12 * np.log2(_f0(x))) for x in (signal, out))
    assert after / before == pytest.approx(factor, abs=0.2)


def test_silence_and_noise_pass():
    for signal in (np.zeros(RATE), np.random.default_rng(2).normal(size=RATE) * 0.1):
        for operation, argument in (
            (voice.stretch, 0.8),
            (voice.effort, 3.0),
            (voice.dynamics, 1.4),
            (voice.intonation, 1.5),
        ):
            assert np.isfinite(operation(signal, argument)).all()
