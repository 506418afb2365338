"""``make fuzz``: what reads hostile bytes, under coverage-guided mutation."""
