"""The options of the boot duties, as arguments and on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Self

from enclave.clock_watch import MAX_DRIFT
from enclave.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What to do at boot.

    Attributes:
        seed_from_nsm: mix random bytes of the NSM's into the kernel's entropy pool.
        seed_from_kms: the same with attested random bytes of KMS's.
        raise_loopback: bring `lo` up if it is down.
        check_clock: compare the system clock with the NSM's, and warn of a drift: at boot, and
            each time the agent renews its attestation document.
        correct_clock: correct it as well: a drift over `max_drift` by a step, a smaller one by
            slewing.
        max_drift: seconds, more than 0, that the clock may be off. KMS rejects signatures after
            five minutes.
    """

    seed_from_nsm: bool = True
    seed_from_kms: bool = True
    raise_loopback: bool = True
    check_clock: bool = True
    correct_clock: bool = False
    max_drift: float = MAX_DRIFT

    def __post_init__(self) -> None:
        if not 0 < self.max_drift <= 86_400:
            raise ConfigurationError(
                f"the drift allowed to the clock is {self.max_drift:g} s",
                hint="more than 0, at most a day",
            )

    @classmethod
    def from_args(cls, arguments: argparse.Namespace) -> Self:
        """Return the values of the options that `add_options` added.

        Raises:
            ConfigurationError: `max_drift` is out of range.
        """
        return cls(**{each.name: getattr(arguments, each.name) for each in fields(cls)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed-from-nsm``, ``--no-seed-from-nsm`` and the others."""
    add = parser.add_argument_group("boot duties (docs/boot.md)").add_argument
    for name, what in (
        ("seed-from-nsm", "seed the kernel's entropy pool from the NSM"),
        ("seed-from-kms", "and from KMS, attested"),
        ("raise-loopback", "bring lo up if it is down"),
        ("check-clock", "compare the system clock with the NSM's, again and again"),
        ("correct-clock", "and correct it: by a step over --max-drift, slewed below"),
    ):
        default = getattr(_DEFAULTS, name.replace("-", "_"))
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=default,
            help=f"{what} (default: {'yes' if default else 'no'})")  # fmt: skip
    add("--max-drift", type=float, metavar="SECONDS", default=_DEFAULTS.max_drift,
        help="seconds that the clock may be off (default: %(default)g)")  # fmt: skip


_DEFAULTS = BootOptions()
