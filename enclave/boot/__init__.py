"""Duties of the first program in an enclave: docs/boot.md says which and why."""

from enclave.boot.duties import Outcome, System, run_boot_duties, seed_from_kms
from enclave.boot.options import BootOptions, add_options

__all__ = [
    "BootOptions",
    "Outcome",
    "System",
    "add_options",
    "run_boot_duties",
    "seed_from_kms",
]
