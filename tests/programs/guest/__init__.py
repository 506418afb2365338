"""A small real Linux for the tests that need what this machine lacks: AF_VSOCK."""
