"""The voice's pitch of a clip, to ask whether a model serves low and high voices alike."""

from __future__ import annotations

import numpy as np

from wav2small.teachers.acoustic import spectrum

LOWEST_HZ, HIGHEST_HZ = 50.0, 350.0  # ser-tests leaves out clips beyond these
GROUPS = (("low", 145.0), ("medium", 190.0), ("high", np.inf))  # upper bounds in Hz, ser-tests
VOICED = 0.5  # least periodicity of a voiced frame (chosen)
RANGE_DB = 25.0  # frames further below the loudest are no voice (chosen)


def mean_f0(signal: np.ndarray) -> float:
    """Mean fundamental frequency of the voiced frames, as the acoustic teacher measures it.

    Args:
        signal: float32 (samples,) at 16 kHz

    Returns:
        Hz; NaN where fewer than six frames of 10 ms are voiced

    Example:
        >>> round(mean_f0(np.sign(np.sin(2 * np.pi * 200 * np.arange(16000) / 16000))))
        200
    """
    power = spectrum.power_spectra(signal)
    f0, periodicity = spectrum.pitch(power)
    energy = power.sum(1)
    f0 = f0[(periodicity > VOICED) & (energy > energy.max() * 10 ** (-RANGE_DB / 10))]
    if len(f0) < 6:
        return float("nan")
    # Frames more than half an octave from the clip's median are mostly octave errors.
    return float(f0[np.abs(np.log2(f0 / np.median(f0))) < 0.5].mean())


def group(f0_hz: float) -> str | None:
    """Name of the group of a mean pitch; None outside 50..350 Hz or of NaN.

    Example:
        >>> group(120.0), group(200.0), group(400.0)
        ('low', 'high', None)
    """
    if not LOWEST_HZ <= f0_hz <= HIGHEST_HZ:
        return None
    return next(name for name, upper in GROUPS if f0_hz <= upper)
