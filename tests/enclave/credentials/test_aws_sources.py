"""Which of AWS's sources the environment leads to, and what each of them needs."""

from __future__ import annotations

import json
import logging
import ssl
from typing import TYPE_CHECKING

import pytest

from enclave.credentials import AwsCredentials, choose_provider
from enclave.surroundings import aws_source
from enclave_simulator.kms.tls import CertificateAuthority
from enclave_simulator.metadata.container import ContainerCredentials
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles import ManualClock
from tests.enclave.credentials.aws_sources import Document, error, listener, provider

NOTHING: dict[str, str] = {}
POD = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
TASK = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"}
IRSA = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": "r"}


@pytest.mark.parametrize(
    ("environ", "attester", "devices", "source"),
    [
        (NOTHING, "auto", {"/dev/nsm"}, None),
        (NOTHING, "auto", {"/dev/nsm", "/dev/tpmrm0"}, None),
        (NOTHING, "auto", set(), None),
        (NOTHING, "auto", {"/dev/tpmrm0", "/dev/tpm0"}, "instance"),
        (NOTHING, "auto", {"/dev/tpm0"}, "instance"),
        (NOTHING, "nsm", {"/dev/tpm0"}, None),
        (NOTHING, "nitrotpm", {"/dev/nsm"}, "instance"),
        (POD, "auto", {"/dev/nsm"}, "container"),
        (TASK, "auto", {"/dev/nsm"}, "container"),
        (TASK, "auto", {"/dev/tpm0"}, "container"),
        (IRSA, "auto", {"/dev/nsm"}, "web-identity"),
        (IRSA | POD, "auto", {"/dev/nsm"}, "web-identity"),  # botocore's order
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": ""}, "auto", {"/dev/nsm"}, None),
    ],
)
def test_what_is_there_decides(
    environ: dict[str, str], attester: str, devices: set[str], source: str | None
) -> None:
    assert aws_source(environ, attester=attester, exists=devices.__contains__) == source


def test_auto_takes_what_is_here_and_a_name_takes_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for asked, here in (("auto", "container"), ("container", None), ("container", "instance")):
        assert isinstance(choose_provider(asked, environ={}, here=here), AwsCredentials)
        assert caplog.records[-1].getMessage() == "credentials come from the source container"
    own = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "hush"}
    found = choose_provider("auto", environ=own, here="container").credentials()
    assert found.access_key_id == "AKIA1"


def test_nothing_is_imported_before_it_is_needed() -> None:
    """botocore's fetchers cost 90 ms of CPU: an enclave never pays them."""
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    script = (
        "import sys; from enclave import Agent; Agent(region='us-east-1', environ={});"
        "print(json.dumps([m for m in sys.modules if m.startswith('botocore.cred')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {script}"],
        capture_output=True, text=True, check=True, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


def test_a_service_that_speaks_https(
    tmp_path: Path, clock: ManualClock, document: Document
) -> None:
    authority = CertificateAuthority()
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(authority.certificate_pem)
    service = ContainerCredentials(listener(), document=document)
    port = service.socket.getsockname()[1]
    service.socket = authority.server_context().wrap_socket(service.socket, server_side=True)
    with service.running():
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"https://127.0.0.1:{port}/v1/credentials"}
        trusted = provider("container", environ, clock, ca_bundle=str(bundle))
        assert trusted.credentials().access_key_id == "ASIA1"
        assert "certificate" in str(error("container", environ, clock)).lower()
    assert isinstance(service.socket, ssl.SSLSocket)
