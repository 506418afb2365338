"""Opens the sealed files by attested calls of KMS, and makes of them what the program gets."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError, ConfigurationError
from enclave.secrets.errors import SecretError
from enclave.secrets.options import check_variable
from enclave.secrets.sealed import Ciphertext, Opened, json_text, text_bytes
from vsock_proxy.service.sops_values import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from enclave.results import DecryptResult
    from enclave.secrets.metadata import KmsKey
    from enclave.secrets.options import Secret, SecretOptions
    from enclave.secrets.sealed import Sealed
    from enclave.secrets.sops import SopsFile

    class Decrypter(Protocol):
        """Decrypts, attested: `Agent`."""

        def decrypt(
            self,
            ciphertext_blob: bytes,
            *,
            key_id: str | None = None,
            encryption_context: Mapping[str, str] | None = None,
        ) -> DecryptResult:
            """See `AttestedOperations.decrypt`."""
            ...


log = logging.getLogger(__name__)

MAX_VARIABLE: Final = 131_071
"""Bytes of ``NAME=VALUE`` (Linux, MAX_ARG_STRLEN, without its NUL)."""

TIMEOUT: Final = 120.0
"""Seconds after which no further call is begun."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a program gets.

    Attributes:
        variables: their values.
        files: the content of files, by the variable that is to have the path.
    """

    variables: dict[str, str] = field(default_factory=dict, repr=False)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def open_secrets(
    options: SecretOptions,
    agents: Mapping[str, Decrypter],
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Given:
    """Open every secret.

    Args:
        options: which, and where they are.
        agents: make the calls, by region; the first is for ciphertexts that name no region.
        monotonic: the time; production code leaves it out.

    Raises:
        SecretError: one of them does not open, or cannot be given; nothing is given then.
    """
    given = Given()
    opened: dict[str, bytes | Opened] = {}
    until = monotonic() + TIMEOUT
    for secret in options.secrets:
        try:
            if secret.path not in opened:
                _check_time(monotonic() <= until)
                sealed = options.sealed[secret.path]
                opened[secret.path] = _opened(sealed, options, agents)
            _give(given, secret, opened[secret.path])
        except SecretError as e:
            raise SecretError(f"{secret.title}: {e}", hint=e.hint) from None
        except AgentError as e:
            raise SecretError(f"{secret.title}: {e}", hint=e.hint) from e
    log.info("%d secrets opened for the program", len(options.secrets))
    return given


def _check_time(left: bool) -> None:  # noqa: FBT001 (private)
    if not left:
        raise SecretError(f"KMS needed more than {TIMEOUT:g} s for those before")


def _opened(
    sealed: Sealed, options: SecretOptions, agents: Mapping[str, Decrypter]
) -> bytes | Opened:
    if isinstance(sealed, Ciphertext):
        agent = agents.get(_region(options.key_id)) or next(iter(agents.values()))
        result = agent.decrypt(
            sealed.blob, key_id=options.key_id, encryption_context=options.context or None
        )
        return result.plaintext
    return _opened_sops(sealed, agents)


def _region(key_id: str | None) -> str:
    parts = (key_id or "").split(":")
    return parts[3] if len(parts) > 5 and parts[0] == "arn" else ""


def _opened_sops(sealed: SopsFile, agents: Mapping[str, Decrypter]) -> Opened:
    """Open a file by the first of its KMS keys that works."""
    errors: list[tuple[KmsKey, AgentError]] = []
    for key in sealed.metadata.keys:
        if key.region not in agents:
            continue
        try:
            data_key = bytearray(
                agents[key.region]
                .decrypt(key.ciphertext, key_id=key.arn, encryption_context=key.context or None)
                .plaintext
            )
        except AgentError as e:
            errors.append((key, e))
            continue
        try:
            # One key has opened: what does not fit now fits by no other.
            return Opened(sealed.format, sealed.open(data_key))
        finally:
            data_key[:] = bytes(len(data_key))
    if not errors:
        regions = ", ".join(sorted({key.region for key in sealed.metadata.keys}))
        raise SecretError(
            f"its KMS keys are in {regions}, and this agent serves {', '.join(agents)}",
            hint="add --region, or a key of this region: sops rotate --add-kms ARN",
        )
    first = errors[0][1]
    if len(errors) == 1:
        raise first
    raise SecretError(
        "no key opens it: " + "; ".join(f"{key.arn}: {e}" for key, e in errors), hint=first.hint
    )


def _give(given: Given, secret: Secret, opened: bytes | Opened) -> None:
    if secret.kind == "variables":
        if not isinstance(opened, Opened):
            raise SecretError("a ciphertext has no names", hint="give it one: --secret NAME=FILE")
        for name, value in opened.variables().items():
            _set(given, name, value)
        return
    content = _content(secret, opened)
    if secret.kind == "file":
        given.files[secret.name] = content
        _check_unused(given.variables, secret.name)
    else:
        _set(given, secret.name, content.decode("utf-8", "surrogateescape"))


def _content(secret: Secret, opened: bytes | Opened) -> bytes:
    if not isinstance(opened, Opened):
        if secret.selector:
            raise SecretError("a ciphertext has no keys", hint="leave out what begins with #")
        return opened
    if secret.selector:
        value = opened.value(secret.selector)
        if not isinstance(value, dict | list):
            return text_bytes(text_of(value))
        if secret.kind == "variable":
            raise SecretError("this is not a single value", hint="name one of those below it")
        return json_text(value).encode("utf-8", "surrogateescape")
    if secret.kind == "variable" and opened.format != "binary":
        raise SecretError(
            f"a file of SOPS in the format {opened.format} has several values",
            hint="name one, --secret NAME=FILE#KEY; or give all: --secret-env FILE, or as a file "
            "in memory, --secret-file NAME=FILE",
        )
    return opened.content()


def _set(given: Given, name: str, value: str) -> None:
    try:
        check_variable(name)
    except ConfigurationError as e:
        raise SecretError(str(e), hint=e.hint) from None
    _check_unused({**given.variables, **given.files}, name)
    if "\0" in value:
        raise SecretError(
            f"the value of {name} has a NUL, which no variable can have",
            hint="give it as a file in memory: --secret-file NAME=FILE",
        )
    if len(name) + 1 + len(text_bytes(value)) > MAX_VARIABLE:
        raise SecretError(
            f"the value of {name} is too long for a variable: {MAX_VARIABLE} bytes with its name",
            hint="give it as a file in memory: --secret-file NAME=FILE",
        )
    given.variables[name] = value


def _check_unused(used: Mapping[str, object], name: str) -> None:
    if name in used:
        raise SecretError(f"the variable {name} is given two secrets")
