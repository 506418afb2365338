"""What the parent instance runs, and what is done there with enclave images."""
