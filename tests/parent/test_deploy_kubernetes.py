"""The Kubernetes manifest: what the API takes, and in agreement with itself and with the daemon."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from parent.credentials.settings import read_credentials_section
from parent.enclaves.settings import EnclaveSettings, read_enclaves_section
from parent.logs.settings import read_logs_section
from parent.operations.settings import read_operations_section
from vsock_proxy.addresses import TcpAddress
from vsock_proxy.configuration import read_proxy_section
from vsock_proxy.settings import parse_settings

MANIFEST = Path(__file__).resolve().parents[2] / "parent/deploy/kubernetes/enclave-parent.yaml"
OBJECTS: dict[str, Any] = {o["kind"]: o for o in yaml.safe_load_all(MANIFEST.read_text())}

# Two that clusters run; the schemas are those of each minor release.
VERSIONS = ("1.33", "1.36")

DEVICE = "aws.ec2.nitro/nitro_enclaves"
"""As AWS's device plugin registers it."""

POD: dict[str, Any] = OBJECTS["DaemonSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_the_api_takes_it(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("terminationGracePeriodSeconds",), "90"),
        (("containers", 0, "livenesProbe"), {}),
        (("containers", 0, "ports", 0, "containerPort"), None),
        (("containers", 0, "securityContext", "runAsUser"), "root"),
    ],
)
def test_the_check_finds_faults(path: tuple[Any, ...], value: object) -> None:
    broken = copy.deepcopy(OBJECTS["DaemonSet"])
    place = broken["spec"]["template"]["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def enclaves() -> tuple[EnclaveSettings, ...]:
    text = OBJECTS["ConfigMap"]["data"]["parent.yaml"]
    fields = parse_settings(text.encode(), source="parent.yaml").fields(
        "proxy", "credentials", "logs", "operations", "enclaves"
    )
    cids = {
        read_credentials_section(fields["credentials"]).cids,
        read_logs_section(fields["logs"]).cids,
        *(forward.cids for forward in read_proxy_section(fields["proxy"]).forwards),
    }
    found = read_enclaves_section(fields["enclaves"])
    assert cids == {frozenset(enclave.cid for enclave in found)}
    listen = read_operations_section(fields["operations"]).listen
    assert listen == TcpAddress("0.0.0.0", CONTAINER["ports"][0]["containerPort"])  # noqa: S104
    return found


def test_the_configuration_is_the_daemons_and_fits_the_pod() -> None:
    found = enclaves()
    limits = CONTAINER["resources"]["limits"]
    assert limits[DEVICE] == CONTAINER["resources"]["requests"][DEVICE] == str(len(found))
    assert limits["hugepages-2Mi"] == f"{sum(e.memory_mib for e in found)}Mi"
    assert limits["hugepages-2Mi"] == CONTAINER["resources"]["requests"]["hugepages-2Mi"]


def test_names_within_the_manifest_agree() -> None:
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert POD["volumes"][0]["configMap"]["name"] == OBJECTS["ConfigMap"]["metadata"]["name"]
    assert POD["serviceAccountName"] == OBJECTS["ServiceAccount"]["metadata"]["name"]
    spaces = {o["metadata"].get("namespace") for o in OBJECTS.values() if o["kind"] != "Namespace"}
    assert spaces == {OBJECTS["Namespace"]["metadata"]["name"]}
    spec = OBJECTS["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert CONTAINER["args"][-1] == "/etc/nitro_enclaves/parent.yaml"
    assert {"/etc/nitro_enclaves", "/run/nitro_enclaves", "/var/log/nitro_enclaves"} <= mounted
