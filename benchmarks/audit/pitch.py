"""The voice's pitch of a clip, to ask whether a model serves low and high voices alike."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wav2small import spectrum

#: Groups of ser-tests, which leaves out clips beyond the outer bounds.
NAMES, BOUNDS_HZ = ("low", "medium", "high"), (50.0, 145.0, 190.0, 350.0)
VOICED = 0.5  # least periodicity of a voiced frame (chosen)
RANGE_DB = 25.0  # frames further below the loudest are no voice (chosen)


def mean_f0(signal: np.ndarray) -> float:
    """Mean fundamental frequency of the voiced frames, as the acoustic teacher measures it, in Hz.

    The signal is float32 (samples,) at 16 kHz. NaN where fewer than six frames of 10 ms are voiced.

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


def groups(f0_hz: pd.Series[float], speakers: pd.Series[str] | None = None) -> np.ndarray:
    """Names of the groups of clips, by the mean pitch of their speakers where those are known.

    Clips without a pitch, and those that ser-tests leaves out, belong to no group, "".

    Args:
        f0_hz: mean pitch of each clip, NaN = none
        speakers: of each clip, "" = unknown

    Example:
        >>> groups(pd.Series([120.0, 200.0, 400.0])).tolist()
        ['low', 'high', '']
    """
    f0_hz = f0_hz.where(f0_hz.between(BOUNDS_HZ[0], BOUNDS_HZ[-1]))
    if speakers is not None:
        f0_hz = f0_hz.groupby(speakers).transform("mean").where(speakers != "", f0_hz)
    named = pd.cut(f0_hz, BOUNDS_HZ, labels=NAMES, include_lowest=True)
    return named.astype(object).fillna("").to_numpy()
