"""Which boot duties are done, as arguments and as command-line options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Self

from enclave.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What to do at boot.

    Attributes:
        seed_from_nsm: mix random bytes of the NSM's into the kernel's entropy pool.
        seed_from_kms: the same with attested random bytes of KMS's.
        raise_loopback: bring `lo` up where it is down.
        check_clock: compare the system clock with the NSM's.
        correct_clock: and set it by the NSM's where it is off.
        max_drift: seconds, more than 0, that the clock may be off. KMS refuses signatures after
            five minutes.
    """

    seed_from_nsm: bool = True
    seed_from_kms: bool = True
    raise_loopback: bool = True
    check_clock: bool = True
    correct_clock: bool = False
    max_drift: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.max_drift <= 86_400:
            raise ConfigurationError(
                f"the drift allowed to the clock is {self.max_drift:g} s",
                hint="more than 0, at most a day",
            )

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self:
        """What the options of `add_options` said.

        Raises:
            ConfigurationError: `max_drift` makes no sense.
        """
        return cls(**{each.name: getattr(arguments, each.name) for each in fields(cls)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed-from-nsm``, ``--no-seed-from-nsm`` and the others."""
    add = parser.add_argument_group("boot duties (docs/boot.md)").add_argument
    for name, what in (
        ("seed-from-nsm", "seed the kernel's entropy pool from the NSM"),
        ("seed-from-kms", "and from KMS, attested"),
        ("raise-loopback", "bring lo up where it is down"),
        ("check-clock", "compare the system clock with the NSM's"),
        ("correct-clock", "and set it where it is off"),
    ):
        default = getattr(_DEFAULTS, name.replace("-", "_"))
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=default,
            help=f"{what} (default: {'yes' if default else 'no'})")  # fmt: skip
    add("--max-drift", type=float, metavar="SECONDS", default=_DEFAULTS.max_drift,
        help="how far the clock may be off (default: %(default)g)")  # fmt: skip


_DEFAULTS = BootOptions()
