"""What every daemon here needs: settings, reload, signals, readiness, watchdog, logs, backoff.

It uses `net`. Nothing here knows the relay or the proxy.
"""
