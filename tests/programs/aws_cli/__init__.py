"""``make test-aws-cli``: AWS CLI version 2 and `enclave-agent`, given the same command lines."""
