"""The Kubernetes manifest: what the API takes, and in agreement with itself and with the daemon."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from parent.daemon.configuration import load_configuration
from tests.paths import ROOT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = ROOT / "parent/deploy/kubernetes/enclave-parent.yaml"
OBJECTS: dict[str, Any] = {o["kind"]: o for o in yaml.safe_load_all(MANIFEST.read_text())}

# Two that clusters run; the schemas are those of each minor release.
VERSIONS = ("1.33", "1.36")

DEVICE, CPUS = "aws.ec2.nitro/nitro_enclaves", "aws.ec2.nitro/nitro_enclaves_cpus"
"""As AWS's device plugin registers them, the second since its version 0.3."""

POD: dict[str, Any] = OBJECTS["DaemonSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def validate(document: dict[str, Any], version: str) -> None:
    """Check an object against the schemas of a version.

    Raises:
        ValueError: it is not valid.
    """
    import kubernetes_validate  # noqa: PLC0415 (two seconds, in each process that collects tests)

    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as e:
        raise ValueError(str(e)) from e


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_the_api_takes_it(kind: str, version: str) -> None:
    validate(OBJECTS[kind], version)


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
    with pytest.raises(ValueError, match=r"."):
        validate(broken, VERSIONS[-1])


def test_the_configuration_is_the_daemons_and_fits_the_pod(tmp_path: Path) -> None:
    path = tmp_path / "parent.yaml"
    path.write_text(OBJECTS["ConfigMap"]["data"]["parent.yaml"])
    found = load_configuration(path)
    assert found.proxy
    assert found.credentials
    assert found.logs
    assert found.operations
    port = CONTAINER["ports"][0]["containerPort"]
    assert found.operations.listen == TcpAddress("0.0.0.0", port)  # noqa: S104
    cids = {found.credentials.cids, found.logs.cids, *(f.cids for f in found.proxy.forwards)}
    assert cids == {frozenset(enclave.cid for enclave in found.enclaves)}
    limits, requests = (CONTAINER["resources"][key] for key in ("limits", "requests"))
    assert limits[DEVICE] == requests[DEVICE] == str(len(found.enclaves))
    cpus = sum(enclave.cpus for enclave in found.enclaves)
    assert limits[CPUS] == requests[CPUS] == str(cpus)
    pages = f"{sum(enclave.memory_mib for enclave in found.enclaves)}Mi"
    assert limits["hugepages-2Mi"] == requests["hugepages-2Mi"] == pages


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
