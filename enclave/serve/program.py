"""The program that `serve` runs: its variables, its user, its secrets, its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave.errors import ConfigurationError
from enclave.serve.stop import either
from vsock_proxy.service.child import exec_hint, exit_code
from vsock_proxy.service.scarcity import starting
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enclave.agent import Agent
    from enclave.secrets.opening import Given
    from enclave.secrets.options import SecretOptions
    from enclave.serve.stop import Stop
    from enclave.serve.user import User


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program.

    Attributes:
        command: the program and its arguments.
        environ: its variables, apart from those of its user and its secrets.
        user: whom it runs as; None: the agent's own user.
        secrets: what it is given besides; None: nothing.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    user: User | None = None
    secrets: SecretOptions | None = None


async def run_to_end(program: Program, stop: Stop, given: Given | None = None) -> int:
    """Run a program to its end; return its exit code.

    Args:
        program: the program.
        stop: has its process from now on.
        given: its secrets, opened.

    Raises:
        ConfigurationError: it cannot be run.
        AgentError: the system has no more threads or processes.
    """
    user, command = program.user, program.command
    env, identity = dict(program.environ), dict[str, Any]()
    if user is not None:
        env |= user.environ
        identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    try:
        with contextlib.ExitStack() as stack:
            if given is not None:
                from enclave.secrets.delivery import memory_files, path_of  # noqa: PLC0415 (as below)

                env |= given.variables
                files = stack.enter_context(memory_files(given.files, user.uid if user else None))
                env |= {name: path_of(fd) for name, fd in files.items()}
                identity["pass_fds"] = tuple(files.values())
            # asyncio may wait for it in a thread, which it starts too late to go without.
            start_thread(threading.Thread(target=lambda: None))
            with starting():
                stop.process = await asyncio.create_subprocess_exec(*command, env=env, **identity)
    except (OSError, ValueError) as e:  # ValueError: NUL in an argument
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot run {command[0]!r}: {reason}",
            hint="can the user of --user execute it?"
            if user
            else exec_hint(command[0], getattr(e, "errno", None)),
        ) from e
    return exit_code(await stop.process.wait())


async def opened_secrets(
    options: SecretOptions, agents: Mapping[str, Agent], stop: Stop
) -> Given | None:
    """Open the secrets in a thread; return None if a signal came before the end."""
    from enclave.secrets.opening import open_secrets  # noqa: PLC0415 (for this option only)

    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Given] = loop.create_future()

    def settle(result: Given | None, error: BaseException | None) -> None:
        if error is not None:
            opened.set_exception(error)
        elif result is not None:
            opened.set_result(result)

    def work() -> None:
        result = error = None
        try:
            result = open_secrets(options, agents)
        except BaseException as e:  # noqa: BLE001 (it is raised on the loop's thread)
            error = e
        with contextlib.suppress(RuntimeError):  # The loop has ended before these calls.
            loop.call_soon_threadsafe(settle, result, error)

    # A daemon: after a signal the process does not wait for its calls.
    start_thread(threading.Thread(target=work, name="secrets", daemon=True))
    await either(_result(opened), stop.requested)
    return opened.result() if opened.done() else None


async def _result(opened: asyncio.Future[Given]) -> None:
    await asyncio.shield(opened)
