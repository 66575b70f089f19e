"""The three dimensions of emotion, in the order used everywhere."""

DIMENSIONS = ("arousal", "dominance", "valence")
