"""Students: tiny networks from a waveform to arousal, dominance and valence."""
