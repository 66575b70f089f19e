"""Students: tiny networks from a waveform to arousal, dominance and valence."""

from wav2small.training.threads import wait_quietly

wait_quietly()  # before torch is loaded
