"""The enclave image: its recipe and its lock (fast), the image itself (`make test-image`)."""
