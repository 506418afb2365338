"""Speed. `python -m tests.bench` (``make bench``) runs all of it; nothing here is a test."""
