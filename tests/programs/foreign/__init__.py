"""Others' NSM clients and verifiers against the simulated NSM and its documents."""
