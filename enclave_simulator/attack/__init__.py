"""Attacks on enclave programs: a hostile parent and a hostile KMS, one attack at a time."""
