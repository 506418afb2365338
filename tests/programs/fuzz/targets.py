"""Every target by its name. Importing this imports everything that is fuzzed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.programs.fuzz import attestation, http, machine, sealed, words

if TYPE_CHECKING:
    from tests.programs.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (attestation, http, words, sealed, machine)
    for target in module.TARGETS
}
