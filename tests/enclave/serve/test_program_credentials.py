"""The container-credentials endpoint for the program: who gets them, and what SDKs are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.credentials import ContainerProvider
from botocore.exceptions import CredentialRetrievalError
from botocore.utils import ContainerMetadataFetcher

from enclave.credentials import Credentials
from enclave.errors import AgentError, CredentialsError
from enclave.serve import program_credentials
from enclave.serve.connection import Limits
from enclave.serve.program_credentials import PATH, ProgramCredentials
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from enclave.serve.program_credentials import CredentialsServer

UNTIL = datetime(2099, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
ROLE = Credentials("ASIAEXAMPLE", "the-secret", "the-session-token", UNTIL)


class Source:
    """A provider of the agent: `found` is what it returns or raises, once `go_on` is set."""

    def __init__(self, found: Credentials | Exception = ROLE) -> None:
        self.found = found
        self.calls = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def credentials(self, **_: Any) -> Credentials:
        self.calls += 1
        assert self.go_on.wait(TEST_TIMEOUT)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Program:
    """What the program knows, and a client in it."""

    def __init__(self, environ: dict[str, str], server: CredentialsServer) -> None:
        self.environ = environ
        self.server = server
        self.url = environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        self.host = self.url.split("/")[2]
        self.token = environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]

    def request(self, **changes: str | None) -> bytes:
        """A right request, but for the changes; None leaves a header out."""
        method, target = changes.pop("method", "GET"), changes.pop("target", PATH)
        headers = {"Host": self.host, "Authorization": self.token, **changes}
        lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    async def send(self, data: bytes) -> tuple[int, Any]:
        """Send bytes; return status and content of one response."""
        host, port = self.host.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(TEST_TIMEOUT):
            writer.write(data)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
            writer.close()
            await writer.wait_closed()
        return int(head.split()[1]), json.loads(body)

    async def get(self, **changes: str | None) -> tuple[int, Any]:
        return await self.send(self.request(**changes))

    async def sdk(self) -> Any:
        """What botocore makes of it."""
        provider = ContainerProvider(self.environ, ContainerMetadataFetcher(sleep=lambda _: None))
        return await asyncio.to_thread(provider.load)


@contextlib.asynccontextmanager
async def program(source: Source) -> AsyncIterator[Program]:
    with ProgramCredentials(source) as made:
        made.start()
        assert made.server
        yield Program(made.environment({}), made.server)


def run(source: Source, work: Callable[[Program], Any]) -> None:
    async def main() -> None:
        async with program(source) as made:
            await work(made)

    asyncio.run(main())


def test_an_sdk_gets_the_agents_credentials() -> None:
    async def work(made: Program) -> None:
        found = await made.sdk()
        frozen = found.get_frozen_credentials()
        assert (frozen.access_key, frozen.secret_key) == ("ASIAEXAMPLE", "the-secret")
        assert frozen.token == "the-session-token"
        assert not found.refresh_needed()
        assert await made.get() == (
            200,
            {
                "AccessKeyId": "ASIAEXAMPLE",
                "SecretAccessKey": "the-secret",
                "Token": "the-session-token",
                "Expiration": "2099-01-31T12:00:00Z",
            },
        )

    run(Source(), work)


def test_keys_that_do_not_expire_are_fetched_again_in_an_hour() -> None:
    async def work(made: Program) -> None:
        _, fields = await made.get()
        assert fields["Token"] == ""
        left = datetime.fromisoformat(fields["Expiration"]) - datetime.now(UTC)
        assert timedelta(minutes=59) < left <= timedelta(hours=1)
        assert not (await made.sdk()).refresh_needed()

    run(Source(Credentials("AKIAEXAMPLE", "the-secret")), work)


def test_each_start_has_a_token_of_its_own() -> None:
    with ProgramCredentials(Source()) as one, ProgramCredentials(Source()) as other:
        tokens = {
            made.environment({})["AWS_CONTAINER_AUTHORIZATION_TOKEN"] for made in (one, other)
        }
    assert len(tokens) == 2
    assert all(len(token) >= 43 for token in tokens), "32 bytes in base64"


def test_who_does_not_have_the_token_learns_nothing() -> None:
    source = Source()

    async def work(made: Program) -> None:
        wrong = (
            None, "", made.token[:-1], made.token + "x", made.token.swapcase(), "x" * 5000,
            f"Bearer {made.token}", "\xff" * 43,
        )  # fmt: skip
        for token in wrong:
            for target in (PATH, "/", "/metrics"):
                status, fields = await made.get(Authorization=token, target=target)
                assert (status, fields["code"]) == (401, "Unauthorized"), token
        twice = made.request().replace(b"\r\n\r\n", b"\r\nAuthorization: x\r\n\r\n")
        assert (await made.send(twice))[0] == 400
        assert source.calls == 0

    run(source, work)


@pytest.mark.parametrize("host", ["evil.example", "169.254.170.2", "127.0.0.1.evil.example", None])
def test_a_name_that_was_pointed_at_loopback_is_rejected(host: str | None) -> None:
    source = Source()

    async def work(made: Program) -> None:
        status, fields = await made.get(Host=host)
        assert status == 400
        assert fields["code"] in ("AccessDeniedException", "MalformedHttpRequestException")
        assert source.calls == 0

    run(source, work)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "POST"}, 405),
        ({"method": "PUT"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"target": "/"}, 404),
        ({"target": f"{PATH}/"}, 404),
        ({"target": f"{PATH}?x=y"}, 404),
        ({"target": f"//{PATH}"}, 404),
        ({"target": "http://127.0.0.1/"}, 404),
        ({"target": "http://evil.example/credentials"}, 400),
    ],
)
def test_only_get_of_the_path_is_served(changes: dict[str, str], status: int) -> None:
    source = Source()

    async def work(made: Program) -> None:
        got, fields = await made.get(**changes)
        assert got == status
        assert fields.keys() == {"code", "message"}
        assert source.calls == 0

    run(source, work)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CredentialsError("the parent is silent", transient=True), 503, "ServiceUnavailable"),
        (CredentialsError("no role", hint="give it one"), 500, "InternalFailure"),
        (ValueError("the-secret"), 500, "InternalFailure"),
    ],
)
def test_an_error_is_one_that_sdks_show(
    error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(made: Program) -> None:
        got, fields = await made.get()
        assert (got, fields["code"]) == (status, code)
        if isinstance(error, CredentialsError):
            assert str(error) in fields["message"]
            with pytest.raises(CredentialRetrievalError, match=str(error)):
                await made.sdk()

    run(Source(error), work)
    assert "no credentials for the program: " in caplog.text
    assert "the-secret" not in caplog.text


def test_a_source_that_is_slow_is_asked_once_and_the_sdk_told_to_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program_credentials, "PATIENCE", 0.02)
    source = Source()
    source.go_on.clear()

    async def work(made: Program) -> None:
        for _ in range(3):
            status, fields = await made.get()
            assert (status, fields["message"]) == (503, "no credentials yet (retry)")
        assert source.calls == 1
        source.go_on.set()
        async with asyncio.timeout(TEST_TIMEOUT):
            while (await made.get())[0] != 200:
                pass

    run(source, work)


def test_the_source_renews_though_the_program_does_not_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program_credentials, "RENEWAL", 0.01)
    source = Source()

    async def work(_: Program) -> None:
        async with asyncio.timeout(TEST_TIMEOUT):
            while source.calls < 3:  # noqa: ASYNC110 (a thread counts)
                await asyncio.sleep(0.01)

    run(source, work)


def test_the_first_credentials_are_waited_for_as_long_as_that_may_help(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program_credentials, "_READY_INTERVAL", 0)
    source = Source(CredentialsError("not yet", transient=True))

    async def work(made: Program) -> None:
        task = asyncio.ensure_future(made.server.ready())
        async with asyncio.timeout(TEST_TIMEOUT):
            while source.calls < 3:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.01)
            source.found = ROLE
            await task
        source.found = CredentialsError("no role")
        with pytest.raises(CredentialsError, match="no role"):
            await made.server.ready()
        source.found = CredentialsError("not yet", transient=True)
        monkeypatch.setattr(program_credentials, "READY_TIMEOUT", 0.1)
        with pytest.raises(AgentError, match="not yet"):
            await made.server.ready()

    run(source, work)
    assert caplog.messages[0].startswith("waiting for credentials, up to 60 s: not yet (set ")
    assert len([text for text in caplog.messages if "waiting" in text]) == 2  # once each time


def test_clients_beyond_the_limit_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_credentials, "LIMITS", Limits(clients=2))

    async def work(made: Program) -> None:
        host, port = made.host.split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        async with asyncio.timeout(TEST_TIMEOUT):
            while len(made.server.connections) < 2:  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0)
        status, fields = await made.send(b"")
        assert (status, fields["code"]) == (503, "ServiceUnavailable")
        for _, writer in held:
            writer.close()

    run(Source(), work)


def test_secrets_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def work(made: Program) -> None:
        await made.get()
        await made.get(Authorization="wrong")
        assert made.token not in caplog.text
        assert made.token not in repr(vars(made.server)["_found"])

    run(Source(), work)
    assert "the-secret" not in caplog.text
    assert "the-session-token" not in caplog.text
    assert "rejected a request: Authorization is not that of this enclave" in caplog.text


def test_the_end_of_an_idle_client_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """SDKs keep their connection."""

    async def main() -> None:
        with ProgramCredentials(Source()) as made:
            made.start()
            program = Program(made.environment({}), cast("CredentialsServer", made.server))
            host, port = program.host.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(program.request())
            await reader.readuntil(b"\r\n\r\n")
            await made.drain(TEST_TIMEOUT)
            writer.close()

    asyncio.run(main())
    assert caplog.messages == []


def test_without_threads_there_is_an_error_that_sdks_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(made: Program) -> None:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            status, fields = await made.get()
        assert (status, fields["code"]) == (503, "ServiceUnavailable")
        assert (await made.get())[0] == 200

    run(Source(), work)
