"""Teachers for tests of the labelling run: real arithmetic on real audio, no model to load."""

import os
import time

import numpy as np


class Loudness:
    """Mean, deviation and peak; exact, so that two runs can be compared to the last bit."""

    name = id = "loudness"
    revision = "1"
    licence = "MIT"
    sampling_rate = 16000
    dimensions = ("arousal", "dominance", "valence")
    invariances: frozenset[str] = frozenset()
    in_workers = True

    def predict(self, batch, lengths):
        rows = [signal[:length] for signal, length in zip(batch, lengths, strict=True)]
        return np.array([[np.abs(row).mean(), row.std(), np.abs(row).max()] for row in rows])


class ArousalOnly(Loudness):
    """Judges one dimension."""

    dimensions = ("arousal",)

    def predict(self, batch, lengths):
        return super().predict(batch, lengths)[:, :1]


class Slow(Loudness):
    """A hundredth of a second a clip: time enough to be killed."""

    def predict(self, batch, lengths):
        time.sleep(0.01)
        return super().predict(batch, lengths)


class Logged(Loudness):
    """Writes process and length of every clip to $TOY_LOG; starts when a second process does."""

    def predict(self, batch, lengths):
        if log := os.environ.get("TOY_LOG"):
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {lengths[0]}\n")
            while len(set(processes := [line.split()[0] for line in open(log)])) < 2:
                time.sleep(0.1)
            time.sleep(0.2 if processes.count(str(os.getpid())) == 1 else 0.01)
        return super().predict(batch, lengths)


class Batched(Loudness):
    """Lives in the main process, as a model on a GPU does; offers a column of its own."""

    in_workers = False

    def predict_columns(self, batch, lengths):
        found = dict(zip(self.dimensions, self.predict(batch, lengths).T, strict=True))
        return {**found, "probability_calm": 1 - found["arousal"]}


class Other(Loudness):
    revision = "2"


class Moody(Loudness):
    """Crashes its process on one clip, raises on a second and answers NaN on a third."""

    def predict(self, batch, lengths):
        if lengths[0] == 3333:
            os._exit(9)
        if lengths[0] == 4444:
            raise ValueError("a bad\nday")
        if lengths[0] == 5555:
            return np.full((1, 3), np.nan)
        return super().predict(batch, lengths)
