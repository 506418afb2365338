"""The options of ``serve`` for secrets, and the files that they name."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

from enclave.errors import AgentError, ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from enclave.secrets.sealed import Sealed

MAX_SECRETS: Final = 256

MAX_SIZE: Final = 1 << 20
"""Bytes of a file; one that a person edits is far smaller."""

Kind = Literal["variable", "file", "variables"]

_OPTIONS: Final = {
    "variable": "--secret",
    "file": "--secret-file",
    "variables": "--secret-env",
}

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED: Final = frozenset({"AWS_ENDPOINT_URL_KMS", "NO_PROXY", "no_proxy"})
"""Variables by which the program finds the endpoint."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret, as an option names it.

    Attributes:
        kind: `variable`: the value of a variable; `file`: a file in memory, whose path is the
            value; `variables`: each value of the file is a variable.
        name: of the variable; "" for `variables`.
        path: of the sealed file.
        selector: of one value in a SOPS file; "" for all.
    """

    kind: Kind
    name: str
    path: str
    selector: str = ""

    @property
    def title(self) -> str:
        """The option, for messages."""
        where = f"{self.path}#{self.selector}" if self.selector else self.path
        return f"{_OPTIONS[self.kind]} {self.name}={where}".replace(" =", " ")


@dataclass(frozen=True, slots=True)
class SecretOptions:
    """What the program is given, and how raw ciphertexts are opened.

    Attributes:
        secrets: in the order of the options.
        sealed: the content of each file, by its path.
        context: the encryption context of raw ciphertexts; SOPS files have their own.
        key_id: the KMS key of raw ciphertexts; None for the key that the ciphertext names.
    """

    secrets: Sequence[Secret]
    sealed: Mapping[str, Sealed] = field(repr=False)
    context: Mapping[str, str]
    key_id: str | None = None

    @classmethod
    def from_args(cls, arguments: argparse.Namespace, *, command: bool) -> Self | None:
        """Return the values of `add_options`, with the files read; None without any secret.

        Raises:
            ConfigurationError: an option is invalid, or a file cannot be read or is malformed.
        """
        secrets: list[Secret] = arguments.secrets or []
        context = dict(arguments.secret_context or [])
        if not secrets:
            if context or arguments.secret_key:
                raise ConfigurationError(
                    "--secret-context and --secret-key without a secret",
                    hint="name one: --secret NAME=FILE",
                )
            return None
        if not command:
            raise ConfigurationError(
                f"{secrets[0].title} without a COMMAND",
                hint="secrets are for the program that serve starts: serve ... -- COMMAND",
            )
        if len(secrets) > MAX_SECRETS:
            raise ConfigurationError(f"more than {MAX_SECRETS} secrets")
        if len(context) != len(arguments.secret_context or []):
            raise ConfigurationError("--secret-context: a key is given twice")
        names = [secret.name for secret in secrets if secret.name]
        for name in names:
            check_variable(name)
            if names.count(name) > 1:
                raise ConfigurationError(f"the variable {name} is given two secrets")
        sealed: dict[str, Sealed] = {}
        for secret in secrets:
            if secret.path not in sealed:
                sealed[secret.path] = _read(secret)
        return cls(secrets, sealed, context, arguments.secret_key)


def check_variable(name: str) -> None:
    """Check the name of a variable.

    Raises:
        ConfigurationError: no shell has such a variable, or the endpoint needs it.
    """
    if _VARIABLE.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name[:60]!r} is not the name of a variable",
            hint="letters, digits and _, not beginning with a digit",
        )
    if name in _RESERVED:
        raise ConfigurationError(
            f"{name} is set by the agent, for its endpoint", hint="choose another name"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--secret`` and the others."""
    add = parser.add_argument_group("secrets of COMMAND (docs/secrets.md)").add_argument
    add("--secret", dest="secrets", action="append", type=_variable, metavar="NAME=FILE[#KEY]",
        help="a variable: FILE is a KMS ciphertext (bytes or base64), or a file of SOPS, of which "
        "KEY names one value")  # fmt: skip
    add("--secret-file", dest="secrets", action="append", type=_file, metavar="NAME=FILE[#KEY]",
        help="the same as a file in memory; the variable NAME has its path")  # fmt: skip
    add("--secret-env", dest="secrets", action="append", type=_variables, metavar="FILE",
        help="a file of SOPS: each of its values is a variable")  # fmt: skip
    add("--secret-context", action="append", type=_pair, metavar="KEY=VALUE",
        help="encryption context of the ciphertexts that are not in a file of SOPS")  # fmt: skip
    add("--secret-key", metavar="KEY_ID",
        help="KMS key of these ciphertexts (default: the one that each names)")  # fmt: skip


def _variable(text: str) -> Secret:
    return _secret("variable", text)


def _file(text: str) -> Secret:
    return _secret("file", text)


def _secret(kind: Kind, text: str) -> Secret:
    name, equals, file = text.partition("=")
    path, _, selector = file.partition("#")
    if not name or not equals or not path:
        raise ConfigurationError(
            f"{_OPTIONS[kind]}: not NAME=FILE",
            hint="FILE is in the image and holds the encrypted secret; the secret itself never "
            "stands on a command line",
        )
    return Secret(kind, name, path, selector)


def _variables(text: str) -> Secret:
    return Secret("variables", "", text)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"--secret-context: not KEY=VALUE: {text[:80]!r}")
    return key, value


def _read(secret: Secret) -> Sealed:
    from enclave.secrets.sealed import read_sealed  # noqa: PLC0415 (AES: not for --help)

    try:
        return read_sealed(_bytes(Path(secret.path)), name=secret.path)
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        raise ConfigurationError(
            f"{secret.title}: cannot read {secret.path}: {reason}",
            hint="is the file in the image, and may this user read it?",
        ) from e
    except AgentError as e:
        raise ConfigurationError(f"{secret.title}: {e}", hint=e.hint) from e


def _bytes(path: Path) -> bytes:
    # A FIFO would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigurationError(f"{path} is not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{path} has more than {MAX_SIZE} bytes")
    return data
