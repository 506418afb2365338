"""A simulated KMS with keys, and botocore's own client for it, over HTTPS."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.config import Config

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.kms.threaded import KmsSimulator
from tests.enclave_simulator.kms.kms_client import REGION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enclave_simulator.authority import Authority


@pytest.fixture(scope="module")
def connect_in(
    nitro_authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """Makes a client of botocore's for a Region of one KMS, whose keys pile up for a module."""
    bundle = tmp_path_factory.mktemp("kms") / "ca.pem"
    with (
        KmsSimulator(KmsService(nitro_authority.root_pem)) as simulator,
        contextlib.ExitStack() as stack,
    ):
        bundle.write_bytes(simulator.ca_pem)

        def connect(region: str) -> Any:
            client = botocore.session.Session().create_client(
                "kms",
                region_name=region,
                endpoint_url=simulator.endpoint_url,
                verify=str(bundle),
                aws_access_key_id=SIMULATED_CREDENTIALS.access_key_id,
                aws_secret_access_key=SIMULATED_CREDENTIALS.secret_access_key,
                aws_session_token=SIMULATED_CREDENTIALS.session_token,
                config=Config(retries={"total_max_attempts": 1}, proxies={}),
            )
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture(scope="module")
def kms(connect_in: Callable[[str], Any]) -> Any:
    """A client in `REGION`."""
    return connect_in(REGION)


@pytest.fixture(scope="module")
def elsewhere(connect_in: Callable[[str], Any]) -> Any:
    """A client in us-west-2."""
    return connect_in("us-west-2")


@pytest.fixture
def key(kms: Any) -> str:
    """The ARN of a fresh symmetric key."""
    return str(kms.create_key()["KeyMetadata"]["Arn"])


@pytest.fixture(scope="module")
def keys(kms: Any) -> dict[str, str]:
    """A key's ARN for each pair of spec and usage that the tests need."""
    wanted = {
        "symmetric": {},
        "rsa": {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
        "sign": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
        "agree": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
    }
    return {
        name: kms.create_key(**parameters)["KeyMetadata"]["Arn"]
        for name, parameters in wanted.items()
    }
