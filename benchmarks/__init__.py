"""Proof: what a bundle costs, when it is wrong, for whom, and compared with what."""
