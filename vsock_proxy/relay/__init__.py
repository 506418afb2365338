"""The half-closing relay: one event loop, and the connections it carries.

It uses `net` and `service`. It knows addresses and limits, but no allowlists and no configuration.
"""
