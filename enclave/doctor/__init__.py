"""``enclave-agent doctor``: what an enclave has, and what of it works."""
