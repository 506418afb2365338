"""Sockets and addresses: parse, resolve, dial, listen, and the CID of a peer.

Nothing here knows configuration files, the relay or the proxy.
"""
