"""The checks of ``enclave-agent doctor``, over a `Machine`.

Nothing secret is in what they say: no key, no token, no random byte, no plaintext.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, cast

from enclave.attestation.document import parse
from enclave.attestation.verify import AWS_ROOT_FINGERPRINT, verify
from enclave.clock_watch import MAX_DRIFT
from enclave.drift import clock_drift, describe
from enclave.errors import AttestationError, DialError, KmsRefusedError
from vsock_proxy.net.addresses import VMADDR_CID_PARENT, ConnectProxy, VsockAddress
from vsock_proxy.net.ports import LOG_PORT
from vsock_proxy.service.checkup import Check, Finding, failed, passed, skipped, warned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.attestation import AttestationDocument
    from enclave.doctor.machine import Machine
    from enclave.nsm import Nsm

LOG_SINK: Final = VsockAddress(VMADDR_CID_PARENT, LOG_PORT)

KMS_SKEW: Final = 300.0
"""Seconds that a signature's time may be off; KMS rejects it beyond."""

FEW_BITS: Final = 256
"""Bits in the kernel's pool at which it is ready."""

LITTLE_TIME: Final = 300.0
LITTLE_MEMORY: Final = 64 << 10  # KiB, as /proc/meminfo has it
FEW_DESCRIPTORS: Final = 1024

_FIELD = 1024
_ENTROPY = "/proc/sys/kernel/random/entropy_avail"
_HWRNG = "/sys/class/misc/hw_random/rng_current"


class Doctor:
    """The checks, in their order."""

    def __init__(
        self,
        machine: Machine,
        call: Mapping[str, Any] | None = None,
        *,
        root_fingerprint: bytes = AWS_ROOT_FINGERPRINT,
    ) -> None:
        """Take what to look at.

        Args:
            machine: it.
            call: parameters of a call to try, with DryRun: Decrypt if they have a CiphertextBlob,
                otherwise GenerateDataKey; None tries none.
            root_fingerprint: see `verify`; production code leaves it out.
        """
        self._machine = machine
        self._root_fingerprint = root_fingerprint
        self._call = call
        self._document: AttestationDocument | None = None
        self._drift = 0.0

    def checks(self) -> list[Check]:
        """Return the checks."""
        reached = ("proxy",)
        signed = ("TLS to KMS", "credentials", "platform")
        return [
            Check("platform", self.platform),
            Check("root", self.root, ("platform",)),
            Check("debug mode", self.debug_mode, ("platform",)),
            Check("PCRs", self.pcrs, ("platform",)),
            Check("NSM", self.nsm, ("platform",)),
            Check("clock", self.clock, ("platform",)),
            Check("entropy", self.entropy),
            Check("hwrng", self.hwrng),
            Check("loopback", self.loopback),
            Check("endpoint", self.endpoint),
            Check("proxy", self.proxy, ("endpoint",)),
            Check("credential service", self.credential_service),
            Check("log sink", self.log_sink, ("endpoint",)),
            Check("TLS to KMS", self.tls, reached),
            Check("credentials", self.credentials),
            Check("GenerateRandom", self.generate_random, signed),
            Check("key", self.key, signed),
            Check("memory", self.memory),
            Check("descriptors", self.descriptors),
        ]

    # What attests

    def platform(self) -> Finding:
        """Find what attests, and read a document of it."""
        with self._machine.attester() as attester:
            before = self._machine.now()
            raw = attester.attest()
            after = self._machine.now()
        document = parse(raw)
        self._drift = clock_drift(before, document.timestamp, after)
        self._document = document
        if document.nitrotpm_pcrs:
            return passed(f"an EC2 instance with a NitroTPM, {document.module_id}")
        # No field distinguishes an enclave's NSM from a Nitro Sandbox's.
        return passed(f"an NSM (of an enclave or a Nitro Sandbox), {document.module_id}")

    def root(self) -> Finding:
        """Verify the document, as KMS does, at its own time: the clock is another check."""
        document = self._parsed()
        try:
            verify(
                document,
                at=document.timestamp,
                max_age=None,
                pcrs=None,
                platform="instance" if document.nitrotpm_pcrs else "enclave",
                allow_debug=True,
                root_fingerprint=self._root_fingerprint,
            )
        except AttestationError as e:
            return warned(f"KMS rejects documents of this: {e.failures[0]}", e.hint)
        return passed("the document verifies under AWS's root")

    def debug_mode(self) -> Finding:
        """Look whether PCR0 to PCR2 are zero."""
        document = self._parsed()
        if document.nitrotpm_pcrs:
            return skipped("a NitroTPM has no debug mode")
        values = [document.pcrs.get(index) for index in range(3)]
        if None in values:
            return failed("the document lacks one of PCR0 to PCR2")
        if not any(any(value or b"") for value in values):
            return warned(
                "PCR0 to PCR2 are zero: an enclave in debug mode, or a Nitro Sandbox",
                "start an enclave without --debug-mode: no policy for an image's PCRs matches "
                "these, and the parent can read its console; a sandbox is told by PCR17",
            )
        return passed("PCR0 to PCR2 are not zero")

    def pcrs(self) -> Finding:
        """Return PCR0 of an enclave, PCR4 of an instance, which policies name."""
        document = self._parsed()
        found = document.nitrotpm_pcrs or document.pcrs
        index = 4 if document.nitrotpm_pcrs else 0
        value = found.get(index)
        if value is None:
            return failed(f"the document lacks PCR{index}")
        text = f"{len(found)} in the document; PCR{index} {value.hex()}"
        if 17 in document.pcrs:
            text += f"; PCR17 {document.pcrs[17].hex()}"
        return passed(text)

    def nsm(self) -> Finding:
        """Make each request that reads, at the limits of its fields."""
        if self._parsed().nitrotpm_pcrs:
            return skipped("there is a NitroTPM in place of an NSM")
        with self._machine.attester() as attester:
            nsm = cast("Nsm", attester)
            described = nsm.describe()
            nsm.describe_pcr(0)
            first, second = nsm.get_random(), nsm.get_random()
            full = nsm.attest(
                public_key=bytes(_FIELD), user_data=bytes(_FIELD), nonce=bytes(_FIELD)
            )
        if first == second or not any(first):
            return failed(
                "it gives the same random bytes twice", "make no keys here: replace the instance"
            )
        version = f"{described.version_major}.{described.version_minor}.{described.version_patch}"
        return passed(
            f"version {version}, {described.max_pcrs} PCRs, {len(described.locked_pcrs)} locked; "
            f"random bytes {len(first)} at once; a document with three fields of {_FIELD} bytes: "
            f"{len(full)} bytes"
        )

    def clock(self) -> Finding:
        """Compare the system clock with the document's time."""
        told = f"the system clock is {describe(self._drift)}"
        advice = "enclave-agent serve --correct-clock sets it"
        if abs(self._drift) > KMS_SKEW:
            return failed(f"{told}: KMS rejects signatures that are 300 s off", advice)
        if abs(self._drift) > MAX_DRIFT:
            return warned(told, advice)
        return passed(f"within {MAX_DRIFT:g} s of the document's time")

    # The kernel

    def entropy(self) -> Finding:
        """Look at the kernel's entropy pool."""
        try:
            bits = int(self._machine.read(_ENTROPY))
        except (OSError, ValueError):
            return skipped(f"{_ENTROPY} does not tell: is /proc mounted?")
        if bits < FEW_BITS:
            return warned(
                f"{bits} bits in the kernel's pool", "enclave-agent serve adds the NSM's and KMS's"
            )
        return passed(f"{bits} bits in the kernel's pool")

    def hwrng(self) -> Finding:
        """Look at the kernel's hardware source of random numbers."""
        try:
            name = self._machine.read(_HWRNG).strip()
        except FileNotFoundError:
            return skipped("the kernel has no hw_random, or /sys is not mounted")
        if name in ("", "none"):
            return warned(
                "no source", "Linux 6.8 and later feeds it from the NSM; serve seeds without it"
            )
        return passed(name)

    def loopback(self) -> Finding:
        """Connect to 127.0.0.1."""
        try:
            self._machine.loopback()
        except OSError as e:
            return failed(
                f"127.0.0.1 cannot be reached: {e.strerror or type(e).__name__}",
                "enclave-agent serve brings lo up; or ip link set lo up",
            )
        return passed("127.0.0.1 can be reached")

    def memory(self) -> Finding:
        """Look at the memory that is left."""
        try:
            told = dict(
                line.split(":", 1)
                for line in self._machine.read("/proc/meminfo").splitlines()
                if ":" in line
            )
            left = int(told["MemAvailable"].split()[0])
        except (OSError, KeyError, ValueError, IndexError):
            return skipped("not in /proc/meminfo: is /proc mounted?")
        text = f"{left >> 10} MiB available"
        if left < LITTLE_MEMORY:
            return warned(
                text,
                "give it more: an enclave by memory_mib or nitro-cli run-enclave --memory, a pod "
                "or task by its limit",
            )
        return passed(text)

    def descriptors(self) -> Finding:
        """Look at the limit of descriptors."""
        try:
            limit, used = self._machine.descriptors()
        except OSError:
            return skipped("/proc/self/fd does not tell: is /proc mounted?")
        text = f"{used} of {limit} used by this process"
        if limit < FEW_DESCRIPTORS:
            return warned(text, f"ulimit -n {FEW_DESCRIPTORS}: each connection of serve needs one")
        return passed(text)

    # The parent, and KMS

    def endpoint(self) -> Finding:
        """Resolve the options to KMS's endpoint."""
        return passed(self._machine.endpoint())

    def proxy(self) -> Finding:
        """Connect to vsock-proxy."""
        proxy = self._machine.proxy
        if proxy is None:
            return passed("none is used: connections go to KMS itself")
        self._machine.dial(proxy.via if isinstance(proxy, ConnectProxy) else proxy)
        return passed(f"{proxy} accepts connections")

    def credential_service(self) -> Finding:
        """Connect to the parent's credential service, if it is used."""
        address = self._machine.credential_service
        if address is None:
            return skipped(f"not used: credentials come from {self._machine.credentials_source}")
        self._machine.dial(address)
        return passed(f"{address} accepts connections")

    def log_sink(self) -> Finding:
        """Connect to the parent's log sink, which is optional."""
        if self._machine.proxy is None:
            return skipped("there is no parent")
        try:
            self._machine.dial(LOG_SINK)
        except DialError:
            return warned(
                f"nothing accepts connections on {LOG_SINK}",
                "only for serve --log-to: enclave-parent with a section `logs` listens there",
            )
        return passed(f"{LOG_SINK} accepts connections")

    def tls(self) -> Finding:
        """Connect to KMS through the proxy, TLS verified."""
        tls = self._machine.tls()
        root = tls.root_name()
        proved = f"proved by {root}" if root else "proved; this Python does not name the root"
        return passed(f"{tls.version} with {tls.host}, {proved}")

    def credentials(self) -> Finding:
        """Get credentials, and report how long they are valid."""
        credentials = self._machine.credentials()
        source = self._machine.credentials_source
        if credentials.expiration is None:
            kind = "temporary" if credentials.session_token else "long-term"
            return passed(f"{kind}, from {source}; when they expire, is not known")
        left = (credentials.expiration - self._machine.now()).total_seconds()
        text = f"from {source}, {int(left // 60)} min left"
        if left < LITTLE_TIME:
            return warned(text, "renew them: the parent's service should have newer ones")
        return passed(text)

    def generate_random(self) -> Finding:
        """Make an attested call that needs no key."""
        number = len(self._machine.agent().generate_random(32))
        return passed(f"{number} attested random bytes")

    def key(self) -> Finding:
        """Try an attested call of a key, with DryRun: KMS decides, and does nothing."""
        if self._call is None:
            return skipped("name a key with --key-id to try an attested call of it")
        operation = "Decrypt" if "CiphertextBlob" in self._call else "GenerateDataKey"
        parameters = {**self._call, "DryRun": True}
        if operation == "GenerateDataKey":
            parameters["KeySpec"] = "AES_256"
        try:
            self._machine.agent().call(operation, parameters)
        except KmsRefusedError as e:
            if e.type == "DryRunOperationException":
                return passed(f"KMS would accept an attested {operation}")
            if e.type == "InvalidKeyUsageException":
                return skipped(f"the key is not for {operation}")
            return failed(f"attested {operation}: {e}", e.hint)
        return failed(f"KMS carried out {operation} although DryRun was sent")

    def _parsed(self) -> AttestationDocument:
        assert self._document is not None  # noqa: S101 (checks after `platform` need it)
        return self._document


def blob(data: bytes) -> str:
    """Return bytes as KMS's parameters have them."""
    return base64.b64encode(data).decode()
