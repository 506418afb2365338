"""What an enclave, a sandbox or an instance measures, from any of the places that say so. No I/O.

Nothing is verified here: an attestation document's signature is not checked. Measurements for a
policy must come from a trusted build, or be compared with one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import cbor2

from parent.policy.actions import (
    ENCLAVE_KEYS,
    PCR_COUNT,
    TPM_KEYS,
    TPM_PCR_COUNT,
    Platform,
    PolicyError,
)
from parent.policy.located_json import DuplicateError, decode_unique
from vsock_proxy.errors import AgentError
from vsock_proxy.service.document_shapes import document_bytes
from vsock_proxy.service.json_text import JsonDepthError, parse_json

PCR_SIZE = 48
"""Bytes in a PCR: SHA-384."""

MAX_INPUT = 256 * 1024
"""Bytes in a file with a document (5 KB are usual), or with nitro-cli's JSON."""

_TAG_SIGN1 = 18
_IMAGE_PCRS = (0, 1, 2)

_OF_PARENT = frozenset({3, 4})
_OF_APPLICATION = frozenset(range(16, PCR_COUNT))
"""An enclave extends and locks these itself."""

_HEX = re.compile(r"[0-9a-fA-F]{96}")
_PCR_NAME = re.compile(r"PCR([0-9]|[12][0-9]|3[01])")


@dataclass(frozen=True, slots=True)
class Measured:
    """PCRs of one enclave, sandbox or instance.

    Attributes:
        pcrs: by index, 48 bytes each.
        origin: where they are from, in words.
        platform: whose they are.
        unknown: indices that the document may have, with values that the origin does not tell.
    """

    pcrs: dict[int, bytes] = field(hash=False)
    origin: str
    platform: Platform = Platform.ENCLAVE
    unknown: frozenset[int] = frozenset()

    @property
    def is_debug(self) -> bool:
        """Whether PCR0-2 are zero, as in debug mode: nothing says what runs in the enclave."""
        return self.platform is Platform.ENCLAVE and not any(
            any(self.pcrs.get(index, b"\1")) for index in _IMAGE_PCRS
        )

    def keys(self) -> dict[str, int]:
        """Return the condition keys of the platform, in lower case, with their PCR indices."""
        return TPM_KEYS if self.platform is Platform.INSTANCE else ENCLAVE_KEYS

    def value(self, key: str) -> tuple[str, ...] | None:
        """Return the value of a condition key in a request with the document.

        Returns:
            One value; none if the request does not have the key; None if that is not known.
        """
        index = self.keys().get(key.lower())
        if index in self.pcrs:
            return (self.pcrs[index].hex(),)
        return None if index in self.unknown else ()

    def context(self) -> dict[str, str]:
        """Return the condition keys whose values are known, in lower case."""
        return {k: self.pcrs[index].hex() for k, index in self.keys().items() if index in self.pcrs}


def parse(data: bytes, *, platform: Platform | None = None, enclave: str | None = None) -> Measured:
    """Read an attestation document in any of its shapes, or JSON of ``nitro-cli``.

    Args:
        data: the document; or what ``nitro-cli build-enclave``, ``describe-eif`` or
            ``describe-enclaves``, or ``nitro-tpm-pcr-compute`` prints.
        platform: whose measurements they are; None: an enclave's or an instance's, as they look.
            A sandbox's look like an enclave's.
        enclave: which of several enclaves, by name, ID or CID.

    Raises:
        PolicyError: it is neither, or it does not tell which enclave is meant.
    """
    if len(data) > MAX_INPUT:
        raise PolicyError(f"measurements of more than {MAX_INPUT} bytes")
    named = _in_json(data, enclave)
    measured = named if named is not None else _from_document(data)
    if platform is None or platform is measured.platform:
        return measured
    if platform is Platform.SANDBOX and measured.platform is Platform.ENCLAVE:
        return replace(measured, platform=platform)
    raise PolicyError(
        f"{measured.origin}: measurements of an {measured.platform.value}",
        hint=f"--platform {measured.platform.value}",
    )


def of_image(pcrs: dict[int, bytes], origin: str) -> Measured:
    """Return what an enclave of an image has, given the PCRs that the image determines."""
    empty = dict.fromkeys(range(5, 16), bytes(PCR_SIZE))
    return Measured({**empty, **pcrs}, origin, Platform.ENCLAVE, _OF_PARENT | _OF_APPLICATION)


def of_values(text: str, *, platform: Platform | None) -> Measured:
    """Read ``PCR17=HEX,PCR8=HEX``.

    Raises:
        PolicyError: it is not of this form.
    """
    platform = platform or Platform.ENCLAVE
    count = TPM_PCR_COUNT if platform is Platform.INSTANCE else PCR_COUNT
    values = {}
    for item in text.split(","):
        found = re.fullmatch(r"PCR(0|[1-9][0-9]?)=([0-9a-fA-F]*)", item)
        if not found or int(found[1]) >= count or not _HEX.fullmatch(found[2]):
            raise PolicyError(
                f"{item!r:.120} is not PCR0 to PCR{count - 1} with 96 hexadecimal digits"
            )
        if int(found[1]) in values:
            raise PolicyError(f"PCR{found[1]} is given twice")
        values[int(found[1])] = bytes.fromhex(found[2])
    return of_some(values, text[:40], platform)


def of_some(pcrs: dict[int, bytes], origin: str, platform: Platform = Platform.ENCLAVE) -> Measured:
    """Return measurements of which only these PCRs are known."""
    count = TPM_PCR_COUNT if platform is Platform.INSTANCE else PCR_COUNT
    return Measured(pcrs, origin, platform, frozenset(range(count)) - pcrs.keys())


def with_parent(measured: Measured, *, role: str | None, instance: str | None) -> Measured:
    """Add what the parent instance puts into PCR3 and PCR4.

    Source: Nitro Enclaves User Guide, "Where to get an enclave's measurements".

    Args:
        measured: what the image measures.
        role: ARN of the parent's IAM role, for PCR3.
        instance: id of the parent, for PCR4.

    Raises:
        PolicyError: the measurements are of an instance, which has no parent.
    """
    given = {index: text for index, text in ((3, role), (4, instance)) if text}
    if given and measured.platform is Platform.INSTANCE:
        raise PolicyError("an instance with a NitroTPM has no parent: PCR3 and PCR4 differ there")
    added = {
        index: hashlib.sha384(bytes(PCR_SIZE) + text.encode()).digest()
        for index, text in given.items()
    }
    return replace(
        measured, pcrs={**measured.pcrs, **added}, unknown=measured.unknown - added.keys()
    )


def _in_json(data: bytes, enclave: str | None) -> Measured | None:
    """Return what JSON with ``Measurements`` says; None if it is something else."""
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
        document: Any = parse_json(text, decode_unique)
    except JsonDepthError as e:
        raise PolicyError(f"the measurements are {e}") from None
    except DuplicateError as e:
        raise PolicyError(f"the measurements: {e}") from None
    except json.JSONDecodeError as e:
        if text.lstrip()[:1] in ("{", "["):
            raise PolicyError(
                f"the measurements are not JSON, though they begin like it: "
                f"line {e.lineno}, column {e.colno}: {e.msg}"
            ) from None
        return None
    except ValueError:
        return None
    if isinstance(document, list) and any(_is_enclave(item) for item in document):
        return _from_enclaves([item for item in document if _is_enclave(item)], enclave)
    if document == []:
        raise PolicyError("nitro-cli describe-enclaves listed no enclave")
    if isinstance(document, dict) and "Measurements" in document:
        if enclave is not None and _is_enclave(document):
            return _from_enclaves([document], enclave)
        return _from_measurements(document, "nitro-cli's JSON")
    if isinstance(document, dict) and document and all(map(_PCR_NAME.fullmatch, document)):
        return of_some(_pcrs(document), "nitro-cli pcr's JSON")
    return None


def _is_enclave(item: Any) -> bool:
    return isinstance(item, dict) and ("EnclaveID" in item or "Measurements" in item)


def _from_enclaves(enclaves: list[dict[str, Any]], wanted: str | None) -> Measured:
    """Return what one of the enclaves that describe-enclaves listed has."""
    names = [_enclave_name(item) for item in enclaves]
    chosen = [
        item
        for item in enclaves
        if wanted is None
        or wanted in [str(item.get(k)) for k in ("EnclaveName", "EnclaveID", "EnclaveCID")]
    ]
    if len(chosen) != 1:
        which = "which enclave?" if chosen else f"no enclave is {wanted!r:.80}:"
        raise PolicyError(
            f"{which} nitro-cli lists {', '.join(names)}", hint="choose one with --enclave"
        )
    return _from_measurements(chosen[0], f"enclave {_enclave_name(chosen[0])}")


def _enclave_name(item: dict[str, Any]) -> str:
    name, enclave_id = (str(item.get(key, "?"))[:80] for key in ("EnclaveName", "EnclaveID"))
    text = f"{name} ({enclave_id})"
    return text if text.isprintable() else "?"


def _from_measurements(document: dict[str, Any], origin: str) -> Measured:
    named = document.get("Measurements")
    if not isinstance(named, dict):
        raise PolicyError(
            f"{origin} has no Measurements", hint="nitro-cli describe-eif prints an image's"
        )
    pcrs = _pcrs(named)
    if 0 not in pcrs and pcrs.keys() & {4, 7}:
        if not pcrs.keys() <= set(range(TPM_PCR_COUNT)):
            raise PolicyError("a NitroTPM has PCR0 to PCR23")
        return of_some(pcrs, "nitro-tpm-pcr-compute's JSON", Platform.INSTANCE)
    if 0 not in pcrs:
        raise PolicyError(f"no PCR0 in {origin}")
    if "DEBUG" in str(document.get("Flags", "")).upper():
        # nitro-cli lists what the image measures; the NSM of an enclave in debug mode has zeros.
        zeros = dict.fromkeys(_IMAGE_PCRS, bytes(PCR_SIZE))
        measured = of_image(zeros, origin)
        del measured.pcrs[8]
        return replace(measured, unknown=measured.unknown | {8})
    return of_image(pcrs, origin)


def _pcrs(named: dict[str, Any]) -> dict[int, bytes]:
    pcrs = {}
    for name, value in named.items():
        if index := _PCR_NAME.fullmatch(name):
            if not isinstance(value, str) or not _HEX.fullmatch(value):
                raise PolicyError(f"{name} is not {PCR_SIZE} bytes in hexadecimal")
            pcrs[int(index[1])] = bytes.fromhex(value)
    return pcrs


def _from_document(data: bytes) -> Measured:
    try:
        raw = document_bytes(data)
    except AgentError as e:
        raise PolicyError(str(e), hint=e.hint or _HINT) from None
    try:
        outer = cbor2.loads(raw)
        if isinstance(outer, cbor2.CBORTag) and outer.tag == _TAG_SIGN1:
            outer = outer.value
        payload = cbor2.loads(outer[2])
        is_tpm = "nitrotpm_pcrs" in payload
        pcrs = dict(payload["nitrotpm_pcrs" if is_tpm else "pcrs"])
        module_id = str(payload["module_id"])
    except Exception:  # noqa: BLE001 (a full CBOR decoder, and shapes that are not checked yet)
        raise PolicyError(
            "neither an attestation document, nor JSON of nitro-cli, nor an enclave image",
            hint=_HINT,
        ) from None
    count = TPM_PCR_COUNT if is_tpm else PCR_COUNT
    if not all(
        type(index) is int
        and index in range(count)
        and isinstance(value, bytes)
        and len(value) == PCR_SIZE
        for index, value in pcrs.items()
    ):
        raise PolicyError("PCRs in the attestation document are not of SHA-384")
    shown = module_id if module_id.isprintable() else "?"
    origin = f"attestation document of {shown:.80}"
    if not is_tpm and 0 not in pcrs:
        raise PolicyError(f"no PCR0 in {origin}")
    platform = Platform.INSTANCE if is_tpm else Platform.ENCLAVE
    return Measured(dict(sorted(pcrs.items())), origin, platform)


_HINT = "nitro-cli describe-eif --eif-path IMAGE prints an image's measurements"
