"""Policies of KMS keys that only an enclave may use: written, checked, explained. Pure."""
