"""The trust suite: correctness, fairness, robustness."""
