"""The demo, and the synthetic speech it works on."""
