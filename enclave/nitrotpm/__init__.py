"""The NitroTPM of an EC2 instance: its device, its messages, and `NitroTpm`, which has both."""

from enclave.nitrotpm.client import NitroTpm, TpmDescription
from enclave.nitrotpm.device import DevTpm, TpmChannel, TpmDevice

__all__ = ["DevTpm", "NitroTpm", "TpmChannel", "TpmDescription", "TpmDevice"]
