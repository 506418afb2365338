"""Confidential pod, task, and the kustomization: what the APIs take, and what the agent finds."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from typing import Any

import botocore
import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

from enclave.cli import _parse
from enclave.credentials.aws import source_in
from tests.parent.deploy.test_kubernetes import MANIFEST, VERSIONS, validate
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

FOLDER = MANIFEST.parent
POD_MANIFEST = FOLDER / "confidential-pod.yaml"
OBJECTS: dict[str, Any] = {o["kind"]: o for o in yaml.safe_load_all(POD_MANIFEST.read_text())}
TEMPLATE: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
POD: dict[str, Any] = TEMPLATE["spec"]
(CONTAINER,) = POD["containers"]
TASK: dict[str, Any] = json.loads((ROOT / "parent/deploy/ecs/confidential-task.json").read_text())
DIGEST = re.compile(r"[a-z./-]+@sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", OBJECTS)
def test_the_api_takes_it(kind: str, version: str) -> None:
    validate(OBJECTS[kind], version)


def test_names_within_the_manifest_agree() -> None:
    spec = OBJECTS["Deployment"]["spec"]
    assert spec["selector"]["matchLabels"] == TEMPLATE["metadata"]["labels"]
    assert POD["serviceAccountName"] == OBJECTS["ServiceAccount"]["metadata"]["name"]
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_it_is_a_confidential_pod_that_its_policy_pins() -> None:
    assert POD["runtimeClassName"] == "confidential-sandbox"
    policy = TEMPLATE["metadata"]["annotations"]["sandbox.amazonaws.com/policy"]
    assert base64.b64decode(policy, validate=True) == b"REPLACE ME"
    assert DIGEST.fullmatch(CONTAINER["image"])
    # exec is denied in confidential mode: a probe that needs it would never succeed.
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & CONTAINER.keys()


def test_the_kustomization_has_every_manifest_and_one_namespace() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    others = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == others
    every = [o for name in sorted(others) for o in yaml.safe_load_all((FOLDER / name).read_text())]
    names = [(o["kind"], o["metadata"]["name"]) for o in every]
    assert len(names) == len(set(names))
    spaces = {o["metadata"].get("namespace") for o in every if o["kind"] != "Namespace"}
    assert spaces == {o["metadata"]["name"] for o in every if o["kind"] == "Namespace"}


def test_kubectl_takes_the_kustomization() -> None:
    program = shutil.which("kubectl") or shutil.which("kustomize")
    if program is None:
        pytest.skip("neither kubectl nor kustomize (npm and PyPI have none; see kubernetes.io)")
    verb = "kustomize" if program.endswith("kubectl") else "build"
    done = subprocess.run(
        [program, verb, FOLDER], capture_output=True, check=True, timeout=TEST_TIMEOUT
    )
    assert len(list(yaml.safe_load_all(done.stdout))) == 6


@pytest.mark.parametrize(
    "words",
    [CONTAINER["args"], TASK["containerDefinitions"][0]["command"][1:]],
    ids=["pod", "task"],
)
def test_the_agent_takes_its_arguments(words: list[str]) -> None:
    options = _parse(words)
    assert options.words == ["--", "/app/my-program"]
    assert options.region == "eu-central-1"
    # Both are left to what is there; EKS and ECS say by these variables that it is a pod or task.
    pod = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
    task = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x"}
    assert source_in(pod) == source_in(task) == "container"


def _task_shape() -> Any:
    model = botocore.session.Session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape
    if "trustedExecutionConfiguration" not in shape.members:
        pytest.skip(f"botocore {botocore.__version__} is older than confidential tasks")
    return shape


def _mistakes(given: Any, shape: Any, path: str = "") -> list[str]:
    """Return values outside the enumerations of a model, which botocore does not check."""
    found = []
    if shape.type_name == "structure":
        for name, value in given.items():
            found += _mistakes(value, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for item in given:
            found += _mistakes(item, shape.member, path)
    elif shape.metadata.get("enum") and given not in shape.metadata["enum"]:
        found.append(f"{path}: {given}")
    return found


def test_botocores_model_takes_the_task_definition() -> None:
    shape = _task_shape()
    assert not ParamValidator().validate(TASK, shape).has_errors()
    assert _mistakes(TASK, shape) == []
    container = TASK["containerDefinitions"][0]
    assert TASK["trustedExecutionConfiguration"]["isolationMode"] == "CONFIDENTIAL_SANDBOX"
    policy = TASK["trustedExecutionConfiguration"]["attestationPolicy"]
    assert base64.b64decode(policy, validate=True) == b"REPLACE ME"
    assert DIGEST.fullmatch(container["image"])
    assert TASK["requiresCompatibilities"] == ["MANAGED_INSTANCES"]


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": 1024},
        {"families": "x"},
        {"trustedExecutionConfiguration": {"isolationMode": "CONFIDENTIAL"}},
        {"trustedExecutionConfiguration": {}},
    ],
)
def test_the_check_of_the_task_finds_faults(change: dict[str, Any]) -> None:
    shape, broken = _task_shape(), {**TASK, **change}
    assert ParamValidator().validate(broken, shape).has_errors() or _mistakes(broken, shape)
