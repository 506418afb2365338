"""Programs that use S3 as AWS's SDKs have it: credentials of the agent, connections by egress.

The parent's credential service and the server with S3's name are in this process; a client that is
not there is a skipped test that says what is missing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.parent.credentials import CredentialServer
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.chain.test_clients import FOLDER
from tests.chain.test_egress import ALLOW, NAME, World, check, outside, program
from tests.programs.aws_cli.folder import installed_aws_cli
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.net.listening import listen

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKETS = """<?xml version="1.0" encoding="UTF-8"?>
<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>x</ID></Owner>
<Buckets><Bucket><Name>{}</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>
</Buckets></ListAllMyBucketsResult>"""
LIST = ("s3api", "list-buckets", "--query", "Buckets[].Name", "--output", "text")
WITH = (*ALLOW, "--program-credentials")


@dataclass
class Cloud:
    """S3, which names the access key of a request as its only bucket; and the parent's role.

    Attributes:
        world: what is outside the enclave.
        lifetime: of the credentials that the parent gives out; each time others.
        given: how often it did.
    """

    world: World = field(init=False)
    lifetime: timedelta = timedelta(hours=1)
    given: int = 0

    def credentials(self) -> dict[str, str]:
        self.given += 1
        return {
            "AccessKeyId": f"ASIAROLE{self.given}",
            "SecretAccessKey": "the-secret",
            "Token": f"token-{self.given}",
            "Expiration": f"{datetime.now(UTC) + self.lifetime:%Y-%m-%dT%H:%M:%SZ}",
        }

    def respond(self, _path: str) -> bytes:
        headers = self.world.server.headers[-1]
        key_id = headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        number = key_id.removeprefix("ASIAROLE")
        assert headers["X-Amz-Security-Token"] == f"token-{number}"
        return BUCKETS.format(f"key-{number}").encode()

    def environ(self) -> tuple[str, ...]:
        """Variables that lead to nothing but the server, whatever the machine's own are."""
        return (
            "env", "AWS_DEFAULT_REGION=eu-central-1", "AWS_REGION=eu-central-1",
            "AWS_CONFIG_FILE=/nowhere", "AWS_SHARED_CREDENTIALS_FILE=/nowhere",
            f"AWS_CA_BUNDLE={self.world.ca}", f"NODE_EXTRA_CA_CERTS={self.world.ca}",
        )  # fmt: skip

    def run(self, *command: str | Path, options: tuple[str, ...] = WITH) -> str:
        words = tuple(str(word) for word in command)
        return check(self.world.run(*options, command=(*self.environ(), *words)))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    made = Cloud()
    with outside(tmp_path, monkeypatch, made.respond) as made.world:
        service = CredentialServer(listen(UnixAddress(str(tmp_path / "3_8002"))), made.credentials)
        with service:
            thread = threading.Thread(
                target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            )
            thread.start()
            yield made
            service.shutdown()
            thread.join(TEST_TIMEOUT)


BOTO3 = """
import os, boto3
assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} & os.environ.keys()
s3 = boto3.client("s3")
def key(): return s3.list_buckets()["Buckets"][0]["Name"]
print(key())
"""


def test_boto3(cloud: Cloud) -> None:
    assert cloud.run(sys.executable, "-c", BOTO3) == "key-1\n"
    assert cloud.world.server.hosts == [NAME]
    assert cloud.given == 1


def test_without_the_option_the_program_has_no_credentials(cloud: Cloud) -> None:
    script = "import boto3; print(boto3.Session().get_credentials())"
    assert cloud.run(sys.executable, "-c", script, options=ALLOW) == "None\n"
    assert cloud.given == 0


def test_credentials_that_expire_are_renewed_for_a_running_program(cloud: Cloud) -> None:
    """An SDK fetches those that expire soon before each request."""
    cloud.lifetime = timedelta(seconds=6)
    script = f"{BOTO3}\nfirst = key()\nwhile key() == first: pass\nprint('renewed')"
    assert cloud.run(sys.executable, "-c", script).splitlines()[1:] == ["renewed"]
    assert cloud.given >= 2


def test_the_agent_waits_for_credentials_and_says_why_there_are_none(
    cloud: Cloud,
) -> None:
    cloud.lifetime = -timedelta(hours=1)
    done = cloud.world.run(*WITH, command=("echo", "started"))
    assert (done.stdout, done.returncode) == ("", 253)
    assert "enclave-agent: error: the AWS credentials expired at " in done.stderr


def test_without_a_program_there_is_nobody_to_give_them_to() -> None:
    done = run(*AGENT, "serve", "--program-credentials")
    assert "enclave-agent: error: --program-credentials without a COMMAND" in done.stderr
    assert (done.stdout, done.returncode) == ("", 252)


def test_another_program_in_the_enclave_does_not_get_them(cloud: Cloud) -> None:
    curl = program("curl")
    script = 'curl -s -w "%{http_code}" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"'
    told = cloud.run("sh", "-c", script.replace("curl", curl, 1))
    fields, status = json.loads(told[:-3]), told[-3:]
    assert (fields["code"], status) == ("Unauthorized", "401")


@pytest.mark.long
def test_aws_cli_version_1(cloud: Cloud) -> None:
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        pytest.skip("no AWS CLI version 1: pip install -e '.[dev]'")
    assert cloud.run(aws, *LIST) == "key-1\n"


@pytest.mark.long
def test_aws_cli_version_2(cloud: Cloud) -> None:
    found = installed_aws_cli()
    if found is None:
        pytest.skip("no AWS CLI version 2: `make test-clients` installs it, with mmdebstrap")
    command, variables = found
    runs = (*command, "-c", "import awscli.clidriver, sys; sys.exit(awscli.clidriver.main())")
    environ = [f"{name}={value}" for name, value in variables.items()]
    assert cloud.run("env", *environ, *runs, *LIST) == "key-1\n"


JAVASCRIPT = f"""
import {{ S3Client, ListBucketsCommand }} from "@aws-sdk/client-s3";
const s3 = new S3Client({{ endpoint: "https://{NAME}:8443" }});
console.log((await s3.send(new ListBucketsCommand({{}}))).Buckets[0].Name);
"""


@pytest.mark.long
def test_the_aws_sdk_for_javascript(cloud: Cloud) -> None:
    """It knows no proxy: the name has a loopback address of its own."""
    node = program("node")
    if not (FOLDER / "node_modules/@aws-sdk/client-s3").exists():
        pytest.skip("no AWS SDK for JavaScript: `make test-clients` installs it, with npm")
    probe = run(*SIMULATOR, "--no-services", "--", "cat", "/proc/self/mountinfo")
    if " /etc/hosts " not in probe.stdout:
        pytest.skip("no mount namespace here: /etc/hosts would be the machine's")
    script = FOLDER / f"credentials-{os.getpid()}.mjs"
    script.write_text(JAVASCRIPT)
    try:
        options = ("--egress-host", f"{NAME}:8443", "--program-credentials")
        assert cloud.run(node, "--no-warnings", script, options=options) == "key-1\n"
    finally:
        script.unlink()
