"""Duties of the first program in an enclave; docs/boot.md explains them."""

from enclave.boot.duties import Outcome, System, clock_watch, run_boot_duties, seed_from_kms
from enclave.boot.options import BootOptions, add_options

__all__ = [
    "BootOptions",
    "Outcome",
    "System",
    "add_options",
    "clock_watch",
    "run_boot_duties",
    "seed_from_kms",
]
