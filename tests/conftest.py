"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# A busy machine must not fail a property test.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vsock",
        action="store_true",
        help="test over AF_VSOCK too, on CID 1: only where that is this kernel's own loopback, "
        "as in the guest of `make boot-test`; elsewhere it leads out of the machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vsock: runs over AF_VSOCK; see --vsock")
