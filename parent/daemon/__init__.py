"""``enclave-parent run``: all the parent's services in one process, from one file."""
