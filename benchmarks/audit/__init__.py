"""The trust suite: correctness, fairness, robustness, adverse conditions."""
