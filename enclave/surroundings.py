"""Where a program runs, as far as can be told without opening a device.

In an enclave there is a parent, reached over vsock, and no network. A pod, a task or an instance
has a network, and the platform says by variables or devices which of these it is. This decides what
is tried by default and nothing else: a document proves the platform.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from enclave import forking
from enclave.credentials.aws import INSTANCE, source_in
from enclave.nsm.device import PATH as NSM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def aws_source(
    environ: Mapping[str, str],
    *,
    attester: str = "auto",
    exists: Callable[[str], bool] = os.path.exists,
) -> str | None:
    """Return where AWS gives credentials to a program here; None behind a parent.

    Args:
        environ: EKS and ECS set variables for what has a role.
        attester: as `Agent` takes it.
        exists: whether there is a file of that name, for tests.

    Returns:
        One of `enclave.credentials.aws.SOURCES`. An instance is where the NitroTPM attests: it is
        named, or there is a TPM and no NSM.
    """
    source = source_in(environ)
    if source is None and is_instance(attester, exists=exists):
        source = INSTANCE
    return source


def is_instance(attester: str, *, exists: Callable[[str], bool] = os.path.exists) -> bool:
    """Return whether a NitroTPM would attest here; see `aws_source`."""
    if attester != "auto":
        return attester == "nitrotpm"
    if exists(NSM):
        return False
    with forking.importing:
        from enclave.nitrotpm.device import DIRECT, MANAGED  # noqa: PLC0415 (not for enclaves)

    return exists(MANAGED) or exists(DIRECT)
