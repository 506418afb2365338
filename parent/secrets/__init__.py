"""Seals secrets for enclaves: the developer's half of ``enclave-agent serve --secret``."""
