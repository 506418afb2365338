"""The in-enclave agent: attested AWS KMS for programs inside AWS Nitro Enclaves."""
