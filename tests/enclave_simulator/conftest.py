"""A simulated KMS with keys, and botocore's own client for it, over HTTPS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.config import Config

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.kms.threaded import KmsSimulator
from tests.enclave_simulator.kms.kms_client import REGION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.authority import Authority


@pytest.fixture(scope="module")
def kms(nitro_authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of botocore's; the keys made through it pile up for a module."""
    bundle = tmp_path_factory.mktemp("kms") / "ca.pem"
    with KmsSimulator(KmsService(nitro_authority.root_pem)) as simulator:
        bundle.write_bytes(simulator.ca_pem)
        client = botocore.session.Session().create_client(
            "kms",
            region_name=REGION,
            endpoint_url=simulator.endpoint_url,
            verify=str(bundle),
            aws_access_key_id=SIMULATED_CREDENTIALS.access_key_id,
            aws_secret_access_key=SIMULATED_CREDENTIALS.secret_access_key,
            aws_session_token=SIMULATED_CREDENTIALS.session_token,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        yield client
        client.close()


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
