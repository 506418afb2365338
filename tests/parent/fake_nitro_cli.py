#!/usr/bin/env python3
"""A nitro-cli without Nitro: arguments, JSON, messages and exit codes of the real one.

Taken from the source of aws/aws-nitro-enclaves-cli 1.5.0. NITRO_CLI_SOCKETS_PATH names a folder,
where the real one has a socket for each enclave; here it is ``ID.json``, and an enclave ends when
its file goes.

FAKE_NITRO_CLI_FAULTS: ``COMMAND=FAULT`` or ``COMMAND=FAULT:TIMES``, separated by commas. Faults:
a code (``E27``), ``hang``, ``flood``, ``garbage``; run-enclave: ``orphan`` (started, but the
command hangs); describe-enclaves: ``partial`` (some did not answer); terminate-enclave: ``lie``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

POOL = (1, 3, 5, 7)
MEMORY_MIB = 4096

TEXTS = {
    "E07": "Read from disk failure. Such error appears when the Nitro CLI process fails to read the"
    " content of the enclave sockets directory (usually '/run/nitro_enclaves/') in order to perform"
    " a `describe-enclave` operation.",
    "E11": "Socket error. This is used as an error for catching any other socket operation errors"
    " not covered by previous custom errors.",
    "E19": "File operation failure.",
    "E22": "Insufficient CPUs available in the pool. User provided `cpu-count` is {}, which is more"
    " than the configured CPU pool size.\nYou can increase the CPU pool size by editing the"
    " `cpu_count` value from '/etc/nitro_enclaves/allocator.yaml' and then enable the"
    " nitro-enclaves-allocator.service.",
    "E26": "Insufficient memory requested. User provided `memory` is {} MB, but based on the EIF"
    " file size, the minimum memory should be {} MB",
    "E27": "Insufficient memory available. User provided `memory` is {} MB, which is more than the"
    " available hugepage memory.\nYou can increase the available memory by editing the `memory_mib`"
    " value from '/etc/nitro_enclaves/allocator.yaml' and then restart the"
    " nitro-enclaves-allocator.service.",
    "E33": "Ioctl start enclave failure. Such error appears when the ioctl used for starting an"
    " enclave fails.",
    "E36": "Enclave boot failure. Such error appears when attempting to receive the `ready` signal"
    " from a freshly booted enclave.",
    "E39": "Enclave process connection failure. Such error appears when the enclave manager fails"
    " to connect to at least one enclave process for retrieving the description information.",
    "E44": "Enclave console connection failure. Such error appears when the Nitro CLI process fails"
    " to establish a connection to a running enclave's console.",
}


def say(text: str) -> None:
    print(text, file=sys.stderr)


def explain(code: str, *info: object) -> None:
    said = TEXTS.get(code, "Some error.").format(*info, *("?", "?"))
    say(f"[ {code} ] {said}\n")
    link = "https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html"
    say(f"For more details, please visit {link}#{code}\n")
    say(
        "If you open a support ticket, please provide the error log found at"
        ' "/var/log/nitro_enclaves/err2026-11-24T00:00:00.000000000+00:00.log"'
    )


def fail(code: str, *info: object) -> NoReturn:
    explain(code, *info)
    sys.exit(int(code[1:]))


def fail_in_daemon(code: str, *info: object) -> NoReturn:
    """The enclave's process says why, then the command says that its process failed."""
    explain(code, *info)
    say("Failed connections: 1")
    fail("E39")


def pcr0(eif: bytes) -> str:
    count = struct.unpack_from(">H", eif, 26)[0]
    offsets = struct.unpack_from(">32Q", eif, 28)[:count]
    image = hashlib.sha384()
    for offset in offsets:
        kind, _, size = struct.unpack_from(">HHQ", eif, offset)
        if kind in (1, 2, 3):
            image.update(eif[offset + 12 : offset + 12 + size])
    return hashlib.sha384(bytes(48) + image.digest()).hexdigest()


def running(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except FileNotFoundError:
            continue
    return found


def fault(folder: Path, command: str) -> str:
    calls = folder / f"{command}.calls"
    with calls.open("a") as file:
        file.write(".")
    number = len(calls.read_text())
    for item in os.environ.get("FAKE_NITRO_CLI_FAULTS", "").split(","):
        name, _, what = item.partition("=")
        what, _, times = what.partition(":")
        if name == command and (not times or number <= int(times)):
            return what
    return ""


def run(arguments: argparse.Namespace, folder: Path, what: str) -> None:
    if what.startswith("E"):
        fail_in_daemon(what)
    eif = Path(arguments.eif_path)
    try:
        image = eif.read_bytes()
    except OSError:
        fail_in_daemon("E19")
    others = running(folder)
    count = len(arguments.cpu_ids or ()) or arguments.cpu_count
    free = [cpu for cpu in POOL if all(cpu not in other["CPUIDs"] for other in others)]
    if count > len(free):
        fail_in_daemon("E22", count)
    if 4 * len(image) > arguments.memory << 20:
        fail_in_daemon("E26", arguments.memory, 4 * -(-len(image) // (1 << 20)))
    say("Start allocating memory...")
    if arguments.memory + sum(other["MemoryMiB"] for other in others) > MEMORY_MIB:
        fail_in_daemon("E27", arguments.memory)
    cid = arguments.enclave_cid or 16 + len(others)
    if any(other["EnclaveCID"] == cid for other in others):
        fail_in_daemon("E33")
    base = arguments.enclave_name or eif.name.removesuffix(".eif")
    name, index = base, 0
    while any(other["EnclaveName"] == name for other in others):
        index += 1
        name = f"{base}_{index}"
    about = {
        "EnclaveName": name,
        "EnclaveID": f"i-0123456789abcdef0-enc{time.time_ns():x}",
        "ProcessID": os.getpid(),
        "EnclaveCID": cid,
        "NumberOfCPUs": count,
        "CPUIDs": arguments.cpu_ids or free[:count],
        "MemoryMiB": arguments.memory,
    }
    cpus = about["CPUIDs"]
    say(f"Started enclave with enclave-cid: {cid}, memory: {arguments.memory} MiB, cpu-ids: {cpus}")
    told = {
        **about,
        "State": "RUNNING",
        "Flags": "DEBUG_MODE" if arguments.debug_mode else "NONE",
        "Measurements": {
            "HashAlgorithm": "Sha384 { ... }",
            "PCR0": pcr0(image),
            "PCR1": "00" * 48,
            "PCR2": "00" * 48,
        },
    }
    made = folder / f".{about['EnclaveID']}"
    made.write_text(json.dumps(told))
    made.rename(folder / f"{about['EnclaveID']}.json")
    if what == "orphan":
        time.sleep(1000)
    print(json.dumps(about, indent=2))


def describe(arguments: argparse.Namespace, folder: Path, what: str) -> None:
    if what.startswith("E"):
        fail(what)
    if what == "partial":
        say("Failed connections: 1")
        print("[]")
        fail("E39")
    print(json.dumps(running(folder), indent=2))


def terminate(arguments: argparse.Namespace, folder: Path, what: str) -> None:
    path = folder / f"{arguments.enclave_id}.json"
    if what.startswith("E") or not path.exists():
        fail(what or "E11")
    name = json.loads(path.read_text())["EnclaveName"]
    if what != "lie":
        path.unlink()
    say(f"Successfully terminated enclave {arguments.enclave_id}.")
    ended = {"EnclaveName": name, "EnclaveID": arguments.enclave_id, "Terminated": True}
    print(json.dumps(ended, indent=2))


def console(arguments: argparse.Namespace, folder: Path, what: str) -> None:
    path = folder / f"{arguments.enclave_id}.json"
    about = json.loads(path.read_text()) if path.exists() else None
    if not about or about["Flags"] != "DEBUG_MODE":
        fail("E44")
    print(f"Connecting to the console for enclave {about['EnclaveCID']}...")
    print("Successfully connected to the console.", flush=True)
    sys.stdout.buffer.write(b"[    0.000000] Linux version 4.14.256\r\n\x1b]0;owned\x07\xff\n")
    sys.stdout.buffer.flush()
    while path.exists():
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="nitro-cli")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("run-enclave")
    starting.add_argument("--enclave-name")
    starting.add_argument("--eif-path", required=True)
    starting.add_argument("--memory", type=int, required=True)
    cpus = starting.add_mutually_exclusive_group(required=True)
    cpus.add_argument("--cpu-ids", type=int, nargs="+")
    cpus.add_argument("--cpu-count", type=int)
    starting.add_argument("--enclave-cid", type=int)
    starting.add_argument("--debug-mode", action="store_true")
    commands.add_parser("describe-enclaves")
    for name in ("terminate-enclave", "console"):
        commands.add_parser(name).add_argument("--enclave-id", required=True)
    arguments = parser.parse_args()
    folder = Path(os.environ["NITRO_CLI_SOCKETS_PATH"])
    if not folder.is_dir():
        fail("E07")
    what = fault(folder, arguments.command)
    if what == "hang":
        time.sleep(1000)
    if what == "garbage":
        print("not JSON at all")
        return
    if what == "flood":
        while True:
            print("x" * 65536)
    {
        "run-enclave": run,
        "describe-enclaves": describe,
        "terminate-enclave": terminate,
        "console": console,
    }[arguments.command](arguments, folder, what)


if __name__ == "__main__":
    main()
