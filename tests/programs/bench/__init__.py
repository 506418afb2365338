"""Benchmarks: ``make bench`` (`python -m tests.programs.bench`) runs all of them."""
