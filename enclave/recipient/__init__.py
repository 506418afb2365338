"""The `Recipient` of a KMS request: key pair, attestation document, and opening the response.

`exchange`, `cms` and `ber` do no I/O; `recipient` joins them to the NSM.
"""
