"""A simulated AWS KMS: what an attested client can see of the real one, over HTTPS.

`service` answers requests and does no I/O, `server` and `tls` carry them, `faults` spoils them.
"""
