"""``enclave-parent doctor``: what a parent instance has, and what of it works."""
