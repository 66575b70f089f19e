"""Teachers on speech alone: WavLM, wav2vec2, ensembles, students."""
