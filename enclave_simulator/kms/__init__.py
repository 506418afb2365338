"""A simulated AWS KMS: what an attested client can see of the real one, over HTTPS.

`service` answers requests and does no I/O, `server` and `tls` carry them, `faults` spoils them.
Below it `key_operations` and `crypto_operations` are KMS's operations, one method each; `keys`
keeps the keys, `material` computes with them, and `policy` says who may.
"""
