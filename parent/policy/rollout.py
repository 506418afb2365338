"""Key policies for the replacement of one image by another. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parent.policy.actions import PolicyError
from parent.policy.generate import DEFAULT_CONDITIONS, condition_key, key_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.policy.measured import Measured

STEPS = (
    "put the policy During, before the first enclave of the new image starts",
    "replace the enclaves",
    "put the policy After, once no enclave of the old image runs",
)
"""What to do with the two policies."""


def rollout(
    old: Measured,
    new: Measured,
    *,
    roles: Sequence[str],
    administrators: Sequence[str],
    conditions: Sequence[str] | None = None,
    deny_outside: bool = False,
) -> dict[str, Any]:
    """Return the policy while both images run, the one after, and the steps.

    Args:
        old: the image that is replaced.
        new: the image that replaces it.
        roles: as for `key_policy`, as are the others.
        administrators: who manages the key.
        conditions: what must be as measured.
        deny_outside: also deny use without a document.

    Raises:
        PolicyError: as for `key_policy`; also if the policy would not change.
    """
    names = DEFAULT_CONDITIONS[new.platform] if conditions is None else conditions
    keys = [condition_key(name, new.platform) for name in names]
    if old.platform is new.platform and all(old.value(key) == new.value(key) for key in keys):
        raise PolicyError(
            f"{' and '.join(names)} of both are the same: one policy is for both",
            hint="nothing to roll out in the policy",
        )

    def policy(*measured: Measured) -> dict[str, Any]:
        return key_policy(
            measured,
            roles=roles,
            administrators=administrators,
            conditions=conditions,
            deny_outside=deny_outside,
        )

    return {"Steps": list(STEPS), "During": policy(old, new), "After": policy(new)}
