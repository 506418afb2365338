"""What every long-running program here needs: settings, reload, signals, readiness, logs.

Stands on `net`. Nothing here knows the relay or the proxy.
"""
