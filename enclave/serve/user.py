"""The user that ``serve -- COMMAND`` runs COMMAND as: ``--user``."""

from __future__ import annotations

import logging
import os
import pwd
import re
from dataclasses import dataclass
from typing import Final

from enclave.errors import ConfigurationError

log = logging.getLogger(__name__)

_NUMBERS: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
_LARGEST: Final = 2**32 - 2
"""The largest id; the one above stands for "no change" (setresuid(2))."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the system, with every group it is in.

    Attributes:
        environ: HOME, USER and LOGNAME, where the system knows them.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    environ: dict[str, str]


def find_user(text: str) -> User:
    """Find a user by name, or by ``UID:GID``, which need not be known to the system.

    Raises:
        ConfigurationError: the system knows no such user, or this process may not become it.
    """
    if numbers := _NUMBERS.fullmatch(text):
        uid, gid = int(numbers[1]), int(numbers[2])
        if max(uid, gid) > _LARGEST:
            raise ConfigurationError(f"--user {text}: ids end at {_LARGEST}", hint=_HINT)
        user = User(uid, gid, (gid,), {})
    else:
        try:
            entry = pwd.getpwnam(text)
        except (KeyError, ValueError):  # ValueError: a NUL
            raise ConfigurationError(f"--user: there is no user {text!r}", hint=_HINT) from None
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        names = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
        user = User(entry.pw_uid, entry.pw_gid, groups, names)
    if os.geteuid() != 0:
        raise ConfigurationError(
            f"--user {text}: only root may run a program as another user",
            hint="start the agent as root, or leave --user out",
        )
    if user.uid == 0:
        log.warning("--user %s is root, who can read the agent's memory: name another user", text)
    return user


_HINT = "give the name of a user in /etc/passwd, or UID:GID"
