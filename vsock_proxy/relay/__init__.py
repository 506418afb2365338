"""The half-closing relay: one event loop, and the connections it carries.

Stands on `net` and `service`. It knows addresses and limits, not allowlists or configuration.
"""
