"""The parent's side of a simulated enclave: the services behind CID 3, as processes."""
