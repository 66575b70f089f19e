"""Searches and one-off tables behind the documentation; not installed."""
