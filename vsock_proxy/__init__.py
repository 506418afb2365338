"""Ground floor of both sides: addresses, dialling, listening, the relay and the proxy daemon.

Nothing here knows KMS, attestation or the NSM. Both the enclave and the parent stand on it.
"""
