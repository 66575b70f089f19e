"""The embedded acoustic teacher: statistics of the signal and a regression."""
