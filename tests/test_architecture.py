"""The folders are the architecture: who may import whom (docs/adr/0001)."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MAY_IMPORT = {
    "vsock_proxy": set(),
    "enclave": {"vsock_proxy"},
    "parent": {"vsock_proxy"},
    "enclave_simulator": {"vsock_proxy", "parent"},
}
"""Of our own packages, besides itself. The simulator shares no code with the enclave: two
mirrored mistakes must not cancel out."""

ON_THE_FACE = {"enclave_simulator.pytest_plugin"}
"""What makes an agent for tests: of enclave/ it imports the public names and nothing else."""

ROOMS = ("net", "service", "relay", "proxy")
"""Of vsock_proxy/, lowest first: a room imports itself and the rooms before it."""

FROM_OUTSIDE = {
    "enclave": {"net", "service", "relay", "proxy"},
    "parent": {"net", "service", "relay", "proxy"},
    "enclave_simulator": {"net", "service", "relay"},
}
"""Which rooms of vsock_proxy/ the other packages may use; its errors and version, all of them."""

HEAVY = {
    # What reaches an image must not pull these in, whatever extras are installed.
    "vsock_proxy": {"botocore", "cbor2", "cryptography", "h11", "pycose", "urllib3", "asn1crypto"},
    "enclave": {
        "asn1crypto",
        "boto3",
        "httpcore",
        "httpx",
        "prometheus_client",
        "requests",
        "urllib3",
    },
    "parent": set[str](),
    "enclave_simulator": set[str](),
}

ON_USE = {
    "enclave.attested_tls.clients": {"httpx", "requests"},
    "enclave.attested_tls.httpx_transport": {"httpcore", "httpx"},
    "enclave.attested_tls.requests_adapter": {"requests", "urllib3"},
    "enclave.network.dialer": {"httpx", "requests", "urllib3"},
    "enclave.network.httpx_transport": {"httpcore", "httpx"},
    "enclave.network.requests_adapter": {"requests"},
    "enclave.network.urllib3_pools": {"urllib3"},
}
"""Modules for programs that use a library of their own, and the library; `clients` and `dialer`
import it for types only. Nothing else imports them, but when they are called."""


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it, for types only or not."""
    return imports_of(ast.parse(path.read_text(encoding="utf-8")), path)


def imports_of(tree: ast.Module, path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            # `from enclave import cbor` imports enclave.cbor; `from enclave import Agent` does
            # not import a module enclave.Agent.
            found |= {
                deeper if (deeper := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            }
    return found


def modules(package: str) -> dict[str, Path]:
    named = {}
    assert (ROOT / package / "__init__.py").exists(), "the test looks where there is nothing"
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = {name: path for package in MAY_IMPORT for name, path in modules(package).items()}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_downward_only(package: str) -> None:
    ours = {*MAY_IMPORT, "tests"}
    for name, path in modules(package).items():
        imported = imports(path) - ({"enclave"} if name in ON_THE_FACE else set())
        tops = {each.partition(".")[0] for each in imported}
        assert tops & ours <= {package} | MAY_IMPORT[package], name
        assert not (tops & HEAVY[package]) - ON_USE.get(name, set()), name


def room(module: str) -> str | None:
    """The room of vsock_proxy/ that a module is in; None if it is in none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "vsock_proxy" and parts[1:2] and parts[1] in ROOMS else None


def test_rooms_of_the_ground_floor_import_downward_only() -> None:
    inside = {name: path for name, path in modules("vsock_proxy").items() if room(name)}
    assert {room(name) for name in inside} == set(ROOMS)
    for name, path in inside.items():
        allowed = ROOMS[: ROOMS.index(room(name) or "") + 1]
        assert {room(imported) for imported in imports(path)} - {None} <= set(allowed), name


@pytest.mark.parametrize("package", FROM_OUTSIDE)
def test_packages_use_only_their_rooms_of_the_ground_floor(package: str) -> None:
    for name, path in modules(package).items():
        used = {room(imported) for imported in imports(path)} - {None}
        assert used <= FROM_OUTSIDE[package], name


def test_there_are_no_circles() -> None:
    graph = {name: imports(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    assert len(graph) > 40, "the test looks where there is nothing"
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "circle: " + " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def folder(module: str) -> str | None:
    """The folder within its package that a module is in; None if it is in none."""
    parts = module.split(".")
    return ".".join(parts[:2]) if (ROOT / "/".join(parts[:2])).is_dir() and parts[1:] else None


def imports_at_run_time(path: Path) -> set[str]:
    """As `imports`, without those for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return imports_of(tree, path)


def test_no_two_folders_import_each_other() -> None:
    """What two folders need of each other belongs below both."""
    used = {
        (folder(name), folder(imported))
        for name, path in MODULES.items()
        for imported in imports_at_run_time(path)
    }
    used = {(one, other) for one, other in used if one and other and one != other}
    assert len(used) > 40, "the test looks where there is nothing"
    assert not {(one, other) for one, other in used if (other, one) in used}


def test_protocol_logic_does_no_io() -> None:
    """The pure modules: bytes and values in, bytes and values out."""
    pure = [
        "enclave.attestation.chain",
        "enclave.attestation.document",
        "enclave.attestation.simulated",
        "enclave.attestation.verify",
        "enclave.recipient.ber",
        "enclave.attested_tls.binding",
        "enclave.attested_tls.exchange",
        "enclave.attested_tls.first_request",
        "enclave.cbor",
        "enclave.recipient.cms",
        "enclave.recipient.exchange",
        "enclave.http.request",
        "enclave.http.response",
        "enclave.kms.body",
        "enclave.kms.retry",
        "enclave.kms.signing",
        "enclave.logs.link",
        "enclave.logs.outbox",
        "enclave.nsm.message",
        "enclave.serve.outcomes",
        "enclave.serve.protocol",
        "enclave.secrets.documents",
        "enclave.secrets.metadata",
        "enclave.secrets.sealed",
        "enclave.secrets.sops",
        "enclave.secrets.values",
        "enclave.secrets.yaml_document",
        "enclave.nsm.messages",
        "enclave.nitrotpm.codes",
        "enclave.nitrotpm.messages",
        "enclave.sdk.frames",
        "enclave.sdk.checks",
        "parent.credentials.responses",
        "parent.credentials.cache",
        "parent.credentials.model",
        "parent.eif.build",
        "parent.eif.cpio",
        "parent.eif.describe",
        "parent.eif.image",
        "parent.eif.layout",
        "parent.eif.metadata",
        "parent.eif.signature",
        "parent.enclaves.lifecycle",
        "parent.enclaves.nitro_cli",
        "parent.enclaves.settings",
        "parent.enclaves.transitions",
        "parent.http_server.hosts",
        "parent.http_server.protocol",
        "vsock_proxy.service.budget",
        "parent.daemon.cross_checks",
        "parent.daemon.status_table",
        "parent.operations.charts",
        "parent.operations.history",
        "parent.hosts_used",
        "parent.operations.markup",
        "parent.operations.page",
        "parent.units",
        "parent.logs.intake",
        "parent.logs.lines",
        "parent.policy.actions",
        "parent.policy.evaluate",
        "parent.policy.expectations",
        "parent.policy.explain",
        "parent.policy.findings",
        "parent.policy.generate",
        "parent.policy.language",
        "parent.policy.lint",
        "parent.policy.lint_conditions",
        "parent.policy.lint_elements",
        "parent.policy.lint_use",
        "parent.policy.located_json",
        "parent.policy.measured",
        "parent.policy.principals",
        "parent.policy.reach",
        "parent.policy.rollout",
        "parent.secrets.plain",
        "parent.secrets.sops",
        "vsock_proxy.proxy.allowlist",
        "vsock_proxy.net.hybrid",
        "vsock_proxy.net.http_connect",
        "vsock_proxy.net.ports",
        "vsock_proxy.relay.admission",
        "vsock_proxy.service.backoff",
        "vsock_proxy.service.renewal",
        "vsock_proxy.service.document_shapes",
        "vsock_proxy.service.log_lines",
        "vsock_proxy.service.mistakes",
        "vsock_proxy.service.printed_bytes",
        "vsock_proxy.service.settings",
        "vsock_proxy.service.sops_values",
        "vsock_proxy.service.yaml_nodes",
    ]
    forbidden = {"socket", "os", "time", "random", "subprocess", "threading", "asyncio", "ssl"}
    for name in pure:
        assert not imports(MODULES[name]) & forbidden, name


def test_nothing_of_the_enclave_reaches_yaml_through_the_ground_floor() -> None:
    """It takes time to import, and is there for files of SOPS in YAML alone."""
    reached: set[str] = set()
    ahead = set(modules("enclave"))
    while ahead:
        reached |= ahead
        ahead = {deeper for name in ahead for deeper in imports(MODULES[name])} & set(MODULES)
        ahead -= reached
    assert "vsock_proxy.net.dialing" in reached, "the test looks where there is nothing"
    for name in reached:
        assert not name.startswith("vsock_proxy.") or "yaml" not in imports(MODULES[name]), name


@pytest.mark.parametrize(
    ("device", "module"),
    [
        ("/dev/nsm", "enclave.nsm.device"),
        ("/dev/tpmrm0", "enclave.nitrotpm.device"),
        ("/dev/tpm0", "enclave.nitrotpm.device"),
    ],
)
def test_only_the_devices_module_names_it(device: str, module: str) -> None:
    """No option, variable or file makes production code take another NSM or TPM."""
    naming = {
        name
        for package in ("enclave", "vsock_proxy")
        for name, path in modules(package).items()
        if any(
            isinstance(node, ast.Constant) and node.value == device
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    assert naming == {module}


def test_no_variable_reaches_the_devices() -> None:
    """AWS's tool takes the TPM's path from a variable; this one must not."""
    for name in ("enclave.nsm.device", "enclave.nitrotpm.device", "enclave.attester"):
        read = {
            node.attr
            for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert not read & {"environ", "getenv", "environb"}, name


def test_only_the_bindings_know_ffi() -> None:
    """And the build, which compiles the module they load (docs/sdk.md)."""
    knowing = {
        name
        for name, path in modules("enclave").items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in ("ffi", "lib", "FFI"))
    }
    bindings = "enclave.sdk.bindings"
    assert knowing == {f"{bindings}.{name}" for name in ("attestation", "kms", "native")} | {
        "enclave.sdk.build"
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_descriptor_is_too_large(package: str) -> None:
    """`select.select` takes none of 1,024 and more; poll and epoll do."""
    for path in modules(package).values():
        assert "select.select(" not in path.read_text(encoding="utf-8"), path
