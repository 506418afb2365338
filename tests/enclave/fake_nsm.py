"""An NSM of one page, to hold the contract suite and the client against something."""

from __future__ import annotations

from hashlib import sha384
from typing import Any

import cbor2

from tests.enclave.nitro import Document


class FakeNsm:
    """Answers as the real one does, with documents of the tests' own chain."""

    def __init__(self) -> None:
        self._pcrs = [bytes([index + 1 if index < 3 else 0]) * 48 for index in range(32)]
        self._locked = set(range(16))
        self._randoms = 0

    def exchange(self, request: bytes) -> bytes:
        """See `NsmDevice.exchange`."""
        try:
            message = cbor2.loads(request)
        except (cbor2.CBORError, ValueError):
            message = None
        return cbor2.dumps(self._answer(message))

    def _answer(self, message: Any) -> Any:
        match message:
            case (
                {"DescribePCR": {"index": index}}
                | {"ExtendPCR": {"index": index}}
                | {"LockPCR": {"index": index}}
            ) if index >= 32:
                return {"Error": "InvalidIndex"}
            case {"ExtendPCR": {"index": index}} | {"LockPCR": {"index": index}} if (
                index in self._locked
            ):
                return {"Error": "ReadOnlyIndex"}
            case "DescribeNSM":
                described = {
                    "digest": "SHA384",
                    "max_pcrs": 32,
                    "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
                    "locked_pcrs": sorted(self._locked),
                    "version_major": 1,
                    "version_minor": 0,
                    "version_patch": 0,
                }
                return {"DescribeNSM": described}
            case "GetRandom":
                self._randoms += 1
                return {"GetRandom": {"random": self._randoms.to_bytes(256, "big")}}
            case {"DescribePCR": {"index": index}}:
                return {"DescribePCR": {"data": self._pcrs[index], "lock": index in self._locked}}
            case {"ExtendPCR": {"index": index, "data": data}}:
                self._pcrs[index] = sha384(self._pcrs[index] + data).digest()
                return {"ExtendPCR": {"data": self._pcrs[index]}}
            case {"LockPCR": {"index": index}}:
                self._locked.add(index)
                return "LockPCR"
            case {"LockPCRs": {"range": end}} if end > 32:
                return {"Error": "InvalidIndex"}
            case {"LockPCRs": {"range": end}}:
                self._locked |= set(range(end))
                return "LockPCRs"
            case {"Attestation": dict(given)}:
                pcrs = {index: self._pcrs[index] for index in sorted(self._locked)}
                document = Document(payload={"pcrs": pcrs, **given}).encode()
                return {"Attestation": {"document": document}}
            case _:
                return {"Error": "InvalidOperation"}
