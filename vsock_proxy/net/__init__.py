"""Sockets and addresses: parse, resolve, dial, listen, and tell who is at the other end.

Nothing here knows configuration files, the relay or the proxy.
"""
