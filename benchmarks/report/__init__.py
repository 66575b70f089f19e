"""One page about runs and bundles."""
