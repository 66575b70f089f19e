"""Teachers on speech and text: SPECTRA, CALM, BRIDGE, MiSTER-E."""
