"""Talking to AWS KMS: signing, TLS over the dialer, retries. Knows nothing of attestation."""
