"""Benchmarks: ratios against what others use for the same, measured in turn on the same machine."""
