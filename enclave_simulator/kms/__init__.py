"""A simulated AWS KMS, over HTTPS: docs/simulated-kms.md says what it does, and what not.

`service` responds to requests and does no I/O; `server` and `tls` carry requests and responses,
`faults` spoils them, `outputs` writes files. `operations/` are KMS's operations, a method each.
Below them `regions` has the keys and aliases, and `store` authorizes by `policy` and `grants`;
`material`, `ciphertexts` and `signing` compute, and `specs` lists the key specs.
"""
