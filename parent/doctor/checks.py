"""The checks of ``enclave-parent doctor``, over a `Machine`. Nothing secret is in what they say."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

from parent.doctor.machine import in_pool, integer, pool_size
from parent.eif.errors import EifError
from parent.enclaves.settings import check_memory
from vsock_proxy.errors import ConfigurationError, DialError
from vsock_proxy.service.checkup import Check, Finding, failed, passed, skipped, warned
from vsock_proxy.service.mistakes import each_error

if TYPE_CHECKING:
    from parent.daemon.configuration import Configuration
    from parent.doctor.machine import Machine
    from parent.enclaves.settings import EnclaveSettings

ALLOCATOR: Final = "nitro-enclaves-allocator.service"
ALLOCATOR_FILE: Final = "/etc/nitro_enclaves/allocator.yaml"
DEVICE: Final = "/dev/nitro_enclaves"
VSOCK: Final = "/dev/vsock"
HUGE_PAGES: Final = "/sys/kernel/mm/hugepages"
CPU_POOL: Final = "/sys/module/nitro_enclaves/parameters/ne_cpus"

LITTLE_TIME: Final = 300.0

_NO_SUCH_UNIT: Final = 4
"""Exit code of systemctl (LSB's for `status`), which says "inactive" nevertheless."""

_RESTART: Final = f"edit {ALLOCATOR_FILE}, end all enclaves, then systemctl restart {ALLOCATOR}"
_HUGE: Final = re.compile(r"hugepages-(\d+)kB")


class Doctor:
    """The checks, in their order."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._found: Configuration | None = None

    def checks(self) -> list[Check]:
        """Return the checks."""
        configured = ("configuration",)
        return [
            Check("configuration", self.configuration),
            Check(DEVICE, self.device),
            Check("vsock", self.vsock),
            Check("nitro-cli", self.nitro_cli),
            Check("allocator", self.allocator),
            Check("huge pages", self.huge_pages),
            Check("CPU pool", self.cpu_pool),
            Check("images", self.images, configured),
            Check("credentials", self.credentials, configured),
            Check("daemon", self.daemon, configured),
        ]

    def configuration(self) -> Finding:
        """Read the daemon's configuration, with all its mistakes."""
        try:
            found = self._machine.configuration()
        except ConfigurationError as e:
            errors = list(each_error(e))
            first = next((each.hint for each in errors if each.hint), "")
            return failed("; ".join(map(str, errors)), first)
        self._found = found
        if found.warnings:
            return warned("; ".join(found.warnings), "enclave-parent check-config has the lines")
        forwards = len(found.proxy.forwards) if found.proxy else 0
        return passed(f"{forwards} forwards, {len(found.enclaves)} enclaves")

    # The platform

    def device(self) -> Finding:
        """Look for the driver's device."""
        try:
            usable = self._machine.may_use(DEVICE)
        except FileNotFoundError:
            return failed(
                f"there is no {DEVICE}",
                "launch the instance with enclaves enabled (EnclaveOptions: Enabled=true), of a "
                "type that has them, and load the module nitro_enclaves",
            )
        if not usable:
            return failed(
                f"this user may not use {DEVICE}",
                "add the user to the group ne, and log in again",
            )
        return passed("this user may use it")

    def vsock(self) -> Finding:
        """Make a vsock socket, and look for the device."""
        try:
            self._machine.vsock()
        except OSError as e:
            if e.errno == errno.EAFNOSUPPORT:
                return failed("the kernel has no AF_VSOCK", "modprobe vsock")
            return failed(
                f"no socket of AF_VSOCK: {e.strerror}",
                "in a container: its seccomp profile must permit AF_VSOCK (docs/deploy.md)",
            )
        try:
            usable = self._machine.may_use(VSOCK)
        except FileNotFoundError:
            return warned(
                f"AF_VSOCK, but no {VSOCK}",
                "the module vsock makes it, and a container is given it with --device",
            )
        if not usable:
            return warned(
                f"AF_VSOCK, and {VSOCK}, which this user may not use",
                f"chmod 0666 {VSOCK}, as udev has it; connections work without",
            )
        return passed(f"AF_VSOCK, and {VSOCK}")

    def nitro_cli(self) -> Finding:
        """Run nitro-cli."""
        done = self._machine.command("nitro-cli", "--version")
        if done is None:
            text, hint = "not in PATH", "dnf install aws-nitro-enclaves-cli"
            return failed(text, hint) if self._enclaves() else warned(text, hint)
        code, output = done
        if code:
            return failed(f"nitro-cli --version: exit code {code}: {output}")
        return passed(output.partition("\n")[0])

    def allocator(self) -> Finding:
        """Ask systemd for the allocator service."""
        done = self._machine.command("systemctl", "is-active", ALLOCATOR)
        if done is None:
            return skipped("no systemctl: the service cannot be seen from here")
        code, output = done
        state = output.partition("\n")[0].strip()
        if state == "active":
            return passed(f"{ALLOCATOR} is active")
        if code == _NO_SUCH_UNIT:
            return failed(f"there is no {ALLOCATOR}", "dnf install aws-nitro-enclaves-cli")
        if state in ("inactive", "failed", "activating", "deactivating"):
            return failed(
                f"{ALLOCATOR} is {state}",
                f"systemctl enable --now {ALLOCATOR}; journalctl -u {ALLOCATOR} says why it failed",
            )
        return skipped(f"systemctl does not tell: {state[:80]}")

    def huge_pages(self) -> Finding:
        """Compare the reserved huge pages with what the enclaves need."""
        try:
            names = self._machine.names(HUGE_PAGES)
        except OSError:
            return skipped(f"{HUGE_PAGES} cannot be read")
        kib = free = 0
        for name in names:
            if found := _HUGE.fullmatch(name):
                size = int(found[1])
                folder = f"{HUGE_PAGES}/{name}"
                kib += size * integer(self._machine.read(f"{folder}/nr_hugepages"))
                free += size * integer(self._machine.read(f"{folder}/free_hugepages"))
        needed = sum(enclave.memory_mib for enclave in self._enclaves())
        text = f"{kib >> 10} MiB reserved, {free >> 10} MiB of them free"
        if kib >> 10 < needed:
            return failed(f"{text}; the enclaves need {needed} MiB", f"memory_mib: {_RESTART}")
        if not kib:
            return warned("none is reserved", f"memory_mib: {_RESTART}")
        return passed(text + (f"; the enclaves need {needed} MiB" if needed else ""))

    def cpu_pool(self) -> Finding:
        """Compare the CPUs set aside with what the enclaves need."""
        try:
            pool = self._machine.read(CPU_POOL).strip()
        except FileNotFoundError:
            return failed(
                f"there is no {CPU_POOL}", "the module nitro_enclaves is not loaded: modprobe it"
            )
        try:
            count = pool_size(pool)
        except ValueError:
            return skipped(f"{CPU_POOL} is not a list of CPUs")
        needed = sum(enclave.cpus for enclave in self._enclaves())
        if count < needed:
            return failed(
                f"{count} CPUs are set aside; the enclaves need {needed}",
                f"cpu_count: {_RESTART}; whole cores only",
            )
        missing = sorted(
            f"{cpu} (of {enclave.name})"
            for enclave in self._enclaves()
            for cpu in enclave.cpu_ids
            if not in_pool(pool, cpu)
        )
        if missing:
            return failed(
                f"CPUs {pool} are set aside; not among them: {', '.join(missing)}",
                f"name others as cpus, a number of them, or add them as cpu_pool: {_RESTART}",
            )
        if not count:
            return warned("no CPU is set aside", f"cpu_count: {_RESTART}")
        return passed(f"CPUs {pool} are set aside")

    # What the configuration names

    def images(self) -> Finding:
        """Look whether each enclave's image is one that can be read, and fits into its memory."""
        enclaves = self._enclaves()
        if not enclaves:
            return skipped("the configuration has no enclaves")
        wrong, hint = [], ""
        for enclave in enclaves:
            try:
                check_memory(enclave, self._machine.image_size(enclave.eif))
            except OSError as e:
                wrong.append(f"enclave {enclave.name}: cannot read {enclave.eif}: {e.strerror}")
            except EifError as e:
                wrong.append(f"enclave {enclave.name}: {enclave.eif}: {e}")
                hint = hint or e.hint
            except ConfigurationError as e:
                wrong.append(str(e))
                hint = hint or e.hint
        if wrong:
            return failed("; ".join(wrong), hint)
        return passed(f"{len(enclaves)} can be read, and fit into their memory")

    def credentials(self) -> Finding:
        """Get credentials as the daemon would."""
        settings = self._found.credentials if self._found else None
        if settings is None:
            return skipped("the configuration has no section `credentials`")
        credentials = self._machine.credentials(settings.profile)
        text = f"from {credentials.source or 'botocore'}"
        # The instance does not see its hop limit; that a token came means that it is enough here.
        if credentials.source == "iam-role":
            text += ", the instance metadata service: its hop limit is enough from here"
        if credentials.expiration is None:
            return passed(f"{text}; when they expire, is not known")
        left = (credentials.expiration - self._machine.now()).total_seconds()
        text += f"; {int(left // 60)} min left"
        return warned(text, "they are renewed late") if left < LITTLE_TIME else passed(text)

    def daemon(self) -> Finding:
        """Ask the running daemon for its state."""
        operations = self._found.operations if self._found else None
        if operations is None:
            return skipped("the configuration has no section `operations`")
        try:
            state = self._machine.daemon(operations.listen)
        except DialError as e:
            return warned(f"it does not run: {e}", "systemctl start enclave-parent")
        if state.get("status") == "ok":
            return passed("it runs, and says that all is well")
        return failed(f"it runs, and says: {state.get('status')}", "enclave-parent status")

    def _enclaves(self) -> tuple[EnclaveSettings, ...]:
        return self._found.enclaves if self._found else ()
