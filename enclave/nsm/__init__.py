"""The Nitro Secure Module: its device, its messages, and `Nsm`, which has both."""

from enclave.nsm.client import Nsm
from enclave.nsm.device import DevNsm, NsmDevice
from enclave.nsm.messages import DescribeNSMResponse, DescribePCRResponse

__all__ = ["DescribeNSMResponse", "DescribePCRResponse", "DevNsm", "Nsm", "NsmDevice"]
