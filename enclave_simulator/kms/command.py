"""``enclave-simulator kms``: the simulated KMS as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import re
import shlex
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from enclave_simulator.kms.faults import describe_faults, parse_fault
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.outputs import EventFile, report_lost_change, report_refusal, write_whole
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import Address, TcpAddress, parse_address
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.service.arguments import RawHelpFormatter, seconds
from vsock_proxy.service.console import hint, inform
from vsock_proxy.service.json_text import parse_json
from vsock_proxy.service.notify import notify
from vsock_proxy.service.scarcity import LOOP_DESCRIPTORS, require_descriptors

if TYPE_CHECKING:
    import socket

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from enclave_simulator.kms.server import KmsServer
    from enclave_simulator.kms.service import KeyStoreState, KmsService


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what is shown of it)
_LONGEST_DELAY = 3600
_MOST_READ = 64 << 20
"""Bytes of a file: a state has 1,000 keys, with policies of 32 KiB, at most."""

_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:\S+")


class FaultAction(argparse.Action):
    """Collects faults, each checked; ``help`` prints the table and exits."""

    def __call__(  # noqa: D102 (argparse.Action has it)
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        if values == "help":
            sys.stdout.write(describe_faults() + "\n")
            parser.exit()
        parse_fault(values)
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def add_parser(subparsers: Any) -> None:
    """Add the ``kms`` command to ``enclave-simulator``."""
    parser = subparsers.add_parser(
        "kms",
        help="serve a simulated AWS KMS over HTTPS",
        description="Serve a simulated AWS KMS over HTTPS until SIGTERM.",
        epilog="faults:\n" + describe_faults(),
        formatter_class=RawHelpFormatter,
    )
    add = parser.add_argument
    add("--listen", metavar="ADDRESS", default="tcp://127.0.0.1:0",
        help="tcp://HOST:PORT or unix:/PATH (default: a free port on 127.0.0.1)")  # fmt: skip
    add("--nitro-root", metavar="FILE",
        help="PEM of the root certificate attestation documents must chain to (default: no "
        "document is accepted)")  # fmt: skip
    add("--ca-file", metavar="FILE", required=True,
        help="where to write the PEM of the certificate authority clients must trust")  # fmt: skip
    add("--ca-key", metavar="FILE",
        help="PEM of that authority's private key, created if it does not exist: with it, "
        "--ca-file can be built into an image (default: a new one each time)")  # fmt: skip
    add("--fault", metavar="NAME[:COUNT]", action=FaultAction, default=[], dest="faults",
        help="spoil COUNT requests, or all; repeat to queue; help lists the names")  # fmt: skip
    add("--grant-delay", metavar="SECONDS", type=_delay, default=timedelta(0),
        help="how long a new grant is effective only with its token; KMS's up to 300 "
        "(default: 0)")  # fmt: skip
    add("--credentials", metavar="FILE",
        help="JSON with AccessKeyId, SecretAccessKey and optionally Token: the only credentials "
        f"accepted (default: {SIMULATED_CREDENTIALS.access_key_id}, its secret fixed)")  # fmt: skip
    add("--key-store", metavar="ID=STATE", action="append", default=[], dest="key_stores",
        help="custom key store: CONNECTED, DISCONNECTED or EXTERNAL; may repeat")  # fmt: skip
    add_key_options(parser)
    parser.set_defaults(run=run)


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for keys and callers; ``run`` and ``boot`` have them too and pass them on."""
    add = parser.add_argument
    add("--key", metavar="alias/NAME[=SPEC]", action="append", default=[], dest="keys",
        help="create a key in each Region (default: SYMMETRIC_DEFAULT); may repeat")  # fmt: skip
    add("--key-policy", metavar="alias/NAME=FILE", action="append", default=[],
        dest="key_policies", help="JSON of that key's policy (default: IAM decides)")  # fmt: skip
    add("--caller-policy", metavar="FILE",
        help="JSON of the callers' IAM policy (default: it allows everything)")  # fmt: skip
    add("--principal", metavar="ARN",
        help=f"ARN of the callers (default: {SIMULATED_CREDENTIALS.principal})")  # fmt: skip
    add("--state", metavar="FILE",
        help="keep the KMS's keys, aliases, policies and grants in FILE over restarts; each "
        "change replaces it whole (default: they are lost)")  # fmt: skip
    add("--seed", metavar="N", type=int,
        help="make the same identifiers in each run (default: random ones)")  # fmt: skip
    add("--events", metavar="FILE",
        help="append a CloudTrail-shaped event for each call to FILE, a line of JSON")  # fmt: skip


def key_option_words(options: argparse.Namespace) -> list[str]:
    """Return the options of `add_key_options` as command-line words."""
    words = [f"--key={key}" for key in options.keys]
    words += [f"--key-policy={policy}" for policy in options.key_policies]
    for name in ("caller_policy", "principal", "state", "seed", "events"):
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    return words


def _delay(text: str) -> timedelta:
    """Convert a number of seconds, as an argparse type."""
    return timedelta(seconds=seconds(0, _LONGEST_DELAY)(text))


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an option, or a file it names.
        ListenError: the address cannot be listened on.
    """
    # botocore and cryptography are slow to import; the other commands need neither.
    from enclave_simulator.authority import Authority  # noqa: PLC0415
    from enclave_simulator.kms.server import KmsServer  # noqa: PLC0415
    from enclave_simulator.kms.service import KmsService  # noqa: PLC0415
    from enclave_simulator.kms.state import StateError  # noqa: PLC0415
    from enclave_simulator.kms.tls import CertificateAuthority  # noqa: PLC0415

    address = parse_address(arguments.listen)
    credentials = SIMULATED_CREDENTIALS
    if arguments.credentials is not None:
        credentials = _read_credentials(arguments.credentials)
    if arguments.principal is not None:
        if not _PRINCIPAL.fullmatch(arguments.principal):
            raise ConfigurationError(
                f"not a principal: {arguments.principal!r}",
                hint="write arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION",
            )
        credentials = dataclasses.replace(credentials, principal=arguments.principal)
    caller_policy = None
    if arguments.caller_policy is not None:
        caller_policy = _read_text(arguments.caller_policy)
    if arguments.nitro_root is None:
        nitro_root = Authority.generate().root_pem  # nobody's
    else:
        nitro_root = _read(arguments.nitro_root)
    state_file = None if arguments.state is None else Path(arguments.state)
    with contextlib.ExitStack() as stack:
        on_event = None
        if arguments.events is not None:
            on_event = stack.enter_context(EventFile(Path(arguments.events))).append
        try:
            service = KmsService(
                nitro_root,
                credentials=[credentials],
                key_stores=_key_stores(arguments.key_stores),
                caller_policy=caller_policy,
                grant_delay=arguments.grant_delay,
                seed=arguments.seed,
                state=None if state_file is None else _read_state(state_file),
                on_change=None if state_file is None else partial(_write_state, state_file),
                on_event=on_event,
                on_refusal=report_refusal,
            )
        except KmsError as e:
            raise ConfigurationError(f"{arguments.caller_policy}: {e.message}") from e
        except StateError as e:
            raise ConfigurationError(
                f"{state_file} is not a state of the simulated KMS: {e}",
                hint="name another file, or remove this one to start without keys",
            ) from e
        except ValueError as e:
            raise ConfigurationError(
                f"{arguments.nitro_root} holds no PEM certificate",
                hint="--nitro-root takes the file that boot --nitro-root writes",
            ) from e
        _add_keys(service, arguments.keys, arguments.key_policies)
        for fault in arguments.faults:
            service.faults.inject(str(fault))
        authority = CertificateAuthority(service.faults, key=_authority_key(arguments.ca_key))
        try:
            Path(arguments.ca_file).write_bytes(authority.certificate_pem)
        except OSError as e:
            raise ConfigurationError(f"cannot write {arguments.ca_file}: {e.strerror}") from e
        listener = stack.enter_context(listening(address))
        require_descriptors(LOOP_DESCRIPTORS, "the simulated KMS")
        server, variables = KmsServer(service, authority, listener), _variables(arguments)
        asyncio.run(_serve(server, listener, address, variables))
    return 0


def _key_stores(texts: list[str]) -> dict[str, KeyStoreState]:
    from enclave_simulator.kms.service import KeyStoreState  # noqa: PLC0415 (as in `run`)

    stores: dict[str, KeyStoreState] = {}
    for text in texts:
        name, _, state = text.partition("=")
        if not name or state not in get_args(KeyStoreState):
            raise ConfigurationError(
                f"not a custom key store: {text!r}",
                hint="write ID=CONNECTED, ID=DISCONNECTED or ID=EXTERNAL",
            )
        if name in stores:
            raise ConfigurationError(f"--key-store {name} is given twice")
        stores[name] = cast("KeyStoreState", state)
    return stores


def _variables(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what a program needs to call it, but for the URL and credentials of the caller's."""
    variables = {"AWS_CA_BUNDLE": str(Path(arguments.ca_file).absolute())}
    if arguments.credentials is None:  # they are no secret: everybody's are the same
        variables |= {
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
        }
    return variables


def _read_state(path: Path) -> bytes | None:
    """Return the state in a file; None if it does not exist yet."""
    if not path.exists():
        if not os.access(path.parent, os.W_OK):
            raise ConfigurationError(f"cannot write {path}: its folder is not writable")
        return None
    return _read(str(path))


def _write_state(path: Path, state: bytes) -> None:
    try:
        write_whole(path, state)
    except OSError as e:
        report_lost_change(path, e)
        raise


def _authority_key(path: str | None) -> EllipticCurvePrivateKey | None:
    """Return the key in a file, which is created if it does not exist."""
    from enclave_simulator.kms.tls import generate_key, key_pem, load_key  # noqa: PLC0415 (as in `run`)

    if path is None:
        return None
    try:
        if not Path(path).exists():
            key = generate_key()
            with open(path, "xb", opener=partial(os.open, mode=0o600)) as f:
                f.write(key_pem(key))
            return key
        return load_key(_read(path))
    except OSError as e:
        raise ConfigurationError(f"cannot write {path}: {e.strerror}") from e
    except ValueError as e:
        raise ConfigurationError(f"{path} holds no PEM key on P-256") from e


def _add_keys(service: KmsService, keys: list[str], policies: list[str]) -> None:
    files: dict[str, str] = {}
    for text in policies:
        alias, _, file = text.partition("=")
        if not file:
            raise ConfigurationError(
                f"not a key policy: {text!r}", hint="write --key-policy alias/NAME=FILE"
            )
        if alias in files:
            raise ConfigurationError(f"--key-policy {alias} is given twice")
        files[alias] = file
    for text in keys:
        alias, _, spec = text.partition("=")
        file = files.pop(alias, "")
        policy = _read_text(file) if file else None
        try:
            service.add_key(
                alias,
                spec=spec or "SYMMETRIC_DEFAULT",
                policy=policy,
            )
        except KmsError as e:
            if e.type == "MalformedPolicyDocumentException":
                raise ConfigurationError(
                    f"--key-policy {alias}={file}: {e.message}",
                    hint=f"enclave-parent key-policy lint {shlex.quote(file)} finds its mistakes",
                ) from e
            raise ConfigurationError(
                f"no key {text!r}: {e.message or e.type}",
                hint="write --key alias/NAME, --key alias/NAME=ECC_NIST_P256 or the like",
            ) from e
    if files:
        raise ConfigurationError(
            f"a policy for {next(iter(files))!r}, but no such key", hint="make it with --key"
        )


async def _serve(
    server: KmsServer, listener: socket.socket, address: Address, variables: dict[str, str]
) -> None:
    """Serve until SIGTERM; tell a person which variables lead a program there."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    if isinstance(address, TcpAddress):
        address = local_address(listener)  # the certificates are for addresses, not for localhost
    notify(f"READY=1\nSTATUS=listening on {address}")
    if not os.environ.get("NOTIFY_SOCKET"):
        # Started by a person, who has to learn which port is free.
        shown = str(address)
        if isinstance(address, TcpAddress):
            near = TcpAddress(_LOOPBACK.get(address.host, address.host), address.port)
            shown = f"https{str(near).removeprefix('tcp')}"
            variables = {"AWS_ENDPOINT_URL_KMS": shown, **variables}
        inform("enclave-simulator", f"listening on {shown}")
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        hint("enclave-simulator", f"export {' '.join(words)}")
    await stop.wait()
    await server.stop()


def _read_credentials(path: str) -> Credentials:
    try:
        document = parse_json(_read(path))
        token = document.get("Token")
        return Credentials(
            _text(document["AccessKeyId"]),
            _text(document["SecretAccessKey"]),
            None if token is None else _text(token),
        )
    except (ValueError, LookupError, TypeError) as e:
        raise ConfigurationError(
            f"{path} holds no credentials",
            hint='write {"AccessKeyId": "...", "SecretAccessKey": "...", "Token": "..."}',
        ) from e


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _read_text(path: str) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as e:
        raise ConfigurationError(f"{path} is not text in UTF-8") from e


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as f:
            data = f.read(_MOST_READ + 1)
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > _MOST_READ:
        raise ConfigurationError(f"{path}: more than {_MOST_READ >> 20} MiB")
    return data
