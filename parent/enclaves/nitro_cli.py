"""The interface of nitro-cli: its arguments, the JSON that it prints, its errors.

Checked against the source of aws/aws-nitro-enclaves-cli 1.5.0: ``src/lib.rs`` (arguments),
``common/json_output.rs``, ``common/document_errors.rs``, ``enclave_proc_comm.rs``. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vsock_proxy.errors import AgentError
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from parent.enclaves.settings import EnclaveSettings

_GIB = 1 << 30
_ERROR = re.compile(rb"\[ (E[0-9]{2}) \] ([^\n]*(?:\n[^\n]+)*)")
"""A code and its text, which an empty line ends."""

_LOG = re.compile(rb'"(/[!-~]{1,200}\.log)"')
_ADVICE = re.compile(r" (?:Such errors? |This is used |In this case, the error backtrace ).*")
"""What nitro-cli tells of the code in general; the hint tells more."""

_WRAPPERS = ("E38", "E39")
"""What the command reports of its own daemon, whose own error is printed above it."""

_ID = re.compile(r"[A-Za-z0-9-]{1,128}-enc[0-9a-f]{1,16}")
_UNPRINTABLE = re.compile(r"[^ -~]+")

_ALLOCATOR = (
    "edit /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator, "
    "which fails while an enclave runs"
)
_HUGE_PAGES = (
    "are enough huge pages free (grep Huge /proc/meminfo; in a pod: its limit of hugepages-2Mi)? "
    f"To reserve more (memory_mib): {_ALLOCATOR}"
)
_LOG_FOLDER = "/var/log/nitro_enclaves"
HINTS = {
    "E07": "is nitro-cli installed and /run/nitro_enclaves there? is this user in group ne?",
    "E11": "the enclave no longer exists, or belongs to another user",
    "E13": "raise fs.inotify.max_user_instances",
    "E18": f"may this user write {_LOG_FOLDER}? add it to group ne",
    "E19": "may this user read the image, and /dev/nitro_enclaves (group ne)? is Nitro Enclaves"
    " enabled on this instance (EnclaveOptions)?",
    "E20": "name each CPU once",
    "E21": f"take CPUs of the pool, or add them to it: {_ALLOCATOR}",
    "E22": f"ask for fewer CPUs, or enlarge the pool (cpu_count): {_ALLOCATOR}",
    "E24": "is the CPU pool set up? systemctl status nitro-enclaves-allocator",
    "E25": _HUGE_PAGES,
    "E26": "memory_mib must be at least four times the image's size",
    "E27": f"ask for less memory, or reserve more huge pages (memory_mib): {_ALLOCATOR}",
    "E29": f"see {_LOG_FOLDER} for the ioctl; is the CID in use already?",
    "E31": _HUGE_PAGES,
    "E32": "give the enclave whole cores: on most x86 instances, CPUs in pairs",
    "E33": f"see {_LOG_FOLDER}; is the CID in use already?",
    "E34": "is memory_mib large enough for the image?",
    "E35": f"{_HUGE_PAGES}. Or is the image damaged? enclave-parent describe-eif IMAGE tells",
    "E36": "it did not come up in time: does the image boot? run it in debug mode and look at its"
    " console; does anything else listen on vsock port 9000?",
    "E39": "the enclave's process does not respond: it may have ended for want of memory or of huge"
    f" pages (grep Huge /proc/meminfo; dmesg tells of out-of-memory kills); see {_LOG_FOLDER}",
    "E42": _HUGE_PAGES,
    "E44": "the console can be read in debug mode only, by one reader at a time",
    "E58": "two enclaves have the same name",
    "E59": "the image's signature is wrong: enclave-parent describe-eif IMAGE tells",
}
"""By the code that nitro-cli prints and exits with (E26: status 26)."""


class NitroCliError(AgentError):
    """nitro-cli did not do what was asked.

    Attributes:
        code: its own, such as ``E26``, or "" where it gave none.
    """

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Enclave:
    """An enclave on this instance, as ``nitro-cli`` describes it.

    Attributes:
        id: ``i-...-enc...``; no other has or had it.
        name: "" before nitro-cli 1.2.
        cid: its context id.
        cpu_ids: its CPUs.
        memory_mib: MiB, at least what was asked for.
        state: RUNNING, TERMINATING or EMPTY.
        debug: in debug mode.
        pcr0: hex, of the image it was started from (debug mode too); "" where not told.
    """

    id: str
    name: str
    cid: int
    cpu_ids: tuple[int, ...]
    memory_mib: int
    state: str = "RUNNING"
    debug: bool = False
    pcr0: str = ""


def run_arguments(settings: EnclaveSettings) -> list[str]:
    """Return what starts an enclave."""
    cpus = (
        ["--cpu-ids", *map(str, settings.cpu_ids)]
        if settings.cpu_ids
        else ["--cpu-count", str(settings.cpu_count)]
    )
    return [
        "run-enclave",
        *("--enclave-name", settings.name),
        *("--eif-path", str(settings.eif)),
        *("--memory", str(settings.memory_mib)),
        *cpus,
        *("--enclave-cid", str(settings.cid)),
        *(["--debug-mode"] if settings.debug else []),
    ]


def run_timeout(settings: EnclaveSettings, eif_size: int) -> float:
    """Seconds after which ``run-enclave`` cannot come to an end by itself any more.

    It waits a minute for every 6 GiB of image and for every 100 GiB of memory
    (``calculate_necessary_timeout``); as much again is for loading and measuring.
    """
    own = 60 * (1 + eif_size // (6 * _GIB)) + 60 * (1 + (settings.memory_mib << 20) // (100 * _GIB))
    return 2.0 * own


def describe_arguments() -> list[str]:
    """Return what lists the enclaves."""
    return ["describe-enclaves"]


def terminate_arguments(enclave_id: str) -> list[str]:
    """Return what ends an enclave."""
    return ["terminate-enclave", "--enclave-id", enclave_id]


def console_arguments(enclave_id: str) -> list[str]:
    """Return what prints the console of an enclave in debug mode, until it ends."""
    return ["console", "--enclave-id", enclave_id]


def parse_run(stdout: bytes) -> Enclave:
    """Read what ``run-enclave`` prints.

    Raises:
        NitroCliError: it is something else.
    """
    return _enclave("run-enclave", _json("run-enclave", stdout))


def parse_describe(stdout: bytes) -> tuple[Enclave, ...]:
    """Read what ``describe-enclaves`` prints.

    Raises:
        NitroCliError: it is something else.
    """
    listed = _json("describe-enclaves", stdout)
    if not isinstance(listed, list) or len(listed) > 64:
        raise _unexpected("describe-enclaves")
    return tuple(_enclave("describe-enclaves", item) for item in listed)


def failure(command: str, status: int, stderr: bytes) -> NitroCliError:
    """Return the error for a command that exited with a status other than 0.

    The daemon that nitro-cli leaves behind reports first, then the command reports that its
    daemon failed (E39): what came first is the cause.
    """
    found = list(_ERROR.finditer(stderr))
    causes = [each for each in found if each[1].decode() not in _WRAPPERS] or found
    if causes:
        cause = causes[0]
        code, text = cause[1].decode(), _text(cause[2])
        others = [each.start() for each in found if each.start() > cause.start()]
        log_file = _LOG.search(stderr, cause.end(), min(others, default=len(stderr)))
    else:
        code = f"E{status:02}" if 0 < status <= 60 and not _is_usage(stderr) else ""
        lines = stderr.strip().splitlines()
        text = _text(lines[-1]) if lines else f"status {status}"
        log_file = None
    hint = HINTS.get(code, "")
    if log_file:
        # In the place of its folder, if the hint names that.
        path = log_file[1].decode()
        told = f"{hint}; see {path}" if hint else f"see {path}"
        hint = hint.replace(_LOG_FOLDER, path) if f"see {_LOG_FOLDER}" in hint else told
    return NitroCliError(
        f"nitro-cli {command}: {f'{code}: ' if code else ''}{text}", code=code, hint=hint
    )


def _text(told: bytes) -> str:
    """Return what nitro-cli tells of this case, without what it tells of the code in general."""
    first, *others = told.decode(errors="replace").splitlines() or [""]
    kept = [_ADVICE.sub("", first) or first]
    # "You can increase ...": the hint says so in other words.
    kept += [line for line in others if line.strip() and not line.startswith("You can ")]
    return _UNPRINTABLE.sub("?", " ".join(kept))[:400].strip()


def _is_usage(stderr: bytes) -> bool:
    """Return whether the argument parser failed; its status 2 does not mean E02."""
    return b"Usage:" in stderr or stderr.startswith(b"error:")


def _unexpected(command: str) -> NitroCliError:
    return NitroCliError(
        f"nitro-cli {command} printed something unexpected",
        hint="this was written for nitro-cli 1.2 to 1.5: nitro-cli --version",
    )


def _json(command: str, stdout: bytes) -> Any:
    try:
        return parse_json(stdout)
    except ValueError as e:
        raise _unexpected(command) from e


def _enclave(command: str, told: Any) -> Enclave:
    try:
        enclave = Enclave(
            id=told["EnclaveID"],
            name=told.get("EnclaveName", ""),
            cid=told["EnclaveCID"],
            cpu_ids=tuple(told["CPUIDs"]),
            memory_mib=told["MemoryMiB"],
            state=told.get("State", "RUNNING"),
            debug=told.get("Flags", "NONE") == "DEBUG_MODE",
            pcr0=told.get("Measurements", {}).get("PCR0", ""),
        )
    except (AttributeError, KeyError, TypeError) as e:
        raise _unexpected(command) from e
    numbers: tuple[Any, ...] = (enclave.cid, enclave.memory_mib, *enclave.cpu_ids)
    texts: tuple[Any, ...] = (enclave.id, enclave.name, enclave.state, enclave.pcr0)
    if (
        not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
        or not all(isinstance(text, str) and len(text) <= 256 for text in texts)
        or not _ID.fullmatch(enclave.id)
    ):
        raise _unexpected(command)
    return enclave
