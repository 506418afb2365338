"""Run in the simulated enclave, with a foreign package: every request of the NSM, through it.

``python nsm_client.py MODULE``: the package and its fork have the same interface.
"""

import hashlib
import importlib
import io
import sys

nsm = importlib.import_module(sys.argv[1])
try:
    device = nsm.open_nsm_device()
except io.UnsupportedOperation:
    # The package's fault, which its fork repairs: Python's mode "r+" needs a file that can seek,
    # and the NSM's driver cannot.
    device = open("/dev/nsm")  # noqa: SIM115, PTH123
described = nsm.describe_nsm(device)
assert described["max_pcrs"] == 32, described
assert described["locked_pcrs"] == list(range(16)), described
assert described["module_id"].startswith("i-"), described
first, second = (nsm.get_random(device, 256) for _ in range(2))
assert len(first) == 256, first
assert first != second, first
before = nsm.describe_pcr(device, 16)
assert before == {"data": bytes(48), "lock": False}, before
extended = nsm.extend_pcr(device, 16, b"hello")
assert extended["data"] == hashlib.sha384(bytes(48) + b"hello").digest(), extended
assert nsm.lock_pcr(device, 16) is True
assert nsm.describe_pcr(device, 16)["lock"] is True
refused = ""
try:
    nsm.extend_pcr(device, 16, b"again")
except Exception as e:  # noqa: BLE001 (the package's own kind, by its text)
    refused = str(e)
assert "ReadOnlyIndex" in refused, refused
assert nsm.lock_pcrs(device, 20) is True
assert nsm.describe_pcr(device, 19)["lock"] is True
document = nsm.get_attestation_doc(device, user_data=b"data", nonce=b"once", public_key=b"key")
assert b"once" in document["document"], document
nsm.close_nsm_device(device)
print("works")
