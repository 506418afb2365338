"""The network of the program in the enclave: egress and ingress over vsock.

`options` reads the options of ``serve``; `service` opens the listeners; `hosts` gives names
loopback addresses; `clients` are the adapters for the program's own Python code.
"""
