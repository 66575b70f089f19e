"""Teachers on speech alone: WavLM, wav2vec2, ensembles, students."""

from wav2small.training.threads import wait_quietly

wait_quietly()  # before torch is loaded
