"""Any calls in any order: responses are shaped as the model says, and the state survives."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.state import dump_state, load_state
from enclave_simulator.kms.store import KeyStore
from enclave_simulator.kms.validation import service_model
from tests.enclave_simulator.kms.kms_client import signed

AUTHORITY = Authority.generate()
OWNER = "arn:aws:iam::000000000000:root"
PRINCIPALS = [OWNER, "arn:aws:iam::000000000000:role/enclave", "nobody"]
SLOW = {"RSA_3072", "RSA_4096"}
TYPES: dict[str, type[Any]] = {
    "string": str, "boolean": bool, "integer": int, "timestamp": float, "list": list,
    "structure": dict, "blob": str, "map": dict,
}  # fmt: skip


def conforms(shape: Any, value: Any) -> bool:
    """Whether a response's value has the types of its shape."""
    expected = TYPES[shape.type_name]
    if type(value) is not expected:
        return False
    match shape.type_name:
        case "structure":
            return value.keys() <= shape.members.keys() and all(
                conforms(shape.members[name], item) for name, item in value.items()
            )
        case "list":
            return all(conforms(shape.member, item) for item in value)
        case "string":
            return value in shape.metadata.get("enum", [value])
        case "blob":
            return bool(base64.b64decode(value, validate=True))
    return True


class World:
    """A KMS, and what its responses have named: later requests name it again."""

    def __init__(self) -> None:
        self.state = b""
        self.service = KmsService(AUTHORITY.root_pem, on_change=self._keep)
        self.service.add_key("alias/x")
        self.seen: dict[str, list[str]] = {
            "KeyIdType": ["alias/x", "nonsense"],
            "AliasNameType": ["alias/x", "alias/y", "alias/aws/z"],
            "GrantIdType": ["0" * 64],
            "GrantTokenType": ["AAAA"],
        }
        self.blobs = [base64.b64encode(bytes(64)).decode()]

    def _keep(self, state: bytes) -> None:
        self.state = state

    def note(self, shape: Any, value: Any) -> None:
        match value:
            case dict() if shape.type_name == "structure":
                for name, item in value.items():
                    self.note(shape.members[name], item)
            case list():
                for item in value:
                    self.note(shape.member, item)
            case str() if shape.type_name == "blob" and len(value) < 6000:
                self.blobs.append(value)
            case str() if shape.name in self.seen:
                self.seen[shape.name].append(value)

    def strategy(self, shape: Any) -> st.SearchStrategy[Any]:
        """Values of an input shape, mostly valid ones."""
        rules = shape.metadata
        match shape.type_name:
            case "structure":
                return st.fixed_dictionaries(
                    {n: self.strategy(shape.members[n]) for n in shape.required_members},
                    optional={
                        name: self.strategy(member)
                        for name, member in shape.members.items()
                        if name not in shape.required_members
                    },
                )
            case "list":
                return st.lists(self.strategy(shape.member), min_size=1, max_size=2)
            case "map":
                return st.dictionaries(st.sampled_from("ab"), st.sampled_from("ab"), max_size=2)
            case "boolean":
                return st.booleans()
            case "integer":
                low, high = rules.get("min", 0), rules.get("max", 100)
                return st.integers(low, min(high, 3000))
            case "timestamp":
                return st.sampled_from([0, 4102444800, 1e300])
            case "blob":
                return st.sampled_from(self.blobs)
        if "enum" in rules:
            return st.sampled_from([each for each in rules["enum"] if each not in SLOW])
        if shape.name == "PrincipalIdType":
            return st.sampled_from(PRINCIPALS)
        if shape.name == "RegionType":
            return st.sampled_from(["us-west-2", "eu-west-1", "nowhere"])
        return st.sampled_from(self.seen.get(shape.name, ["a", "{}", "0", "default"]))


@settings(max_examples=40)
@given(st.data())
def test_any_calls_in_any_order(data: st.DataObject) -> None:
    world = World()
    model = service_model()
    for operation in data.draw(
        st.lists(st.sampled_from(model.operation_names), min_size=1, max_size=25)
    ):
        shapes = model.operation_model(operation)
        parameters = data.draw(world.strategy(shapes.input_shape), label=operation)
        response = world.service.handle(signed(operation, parameters))
        document = json.loads(response.body or b"{}")
        if response.status == 200:
            if shapes.output_shape is None:
                assert not response.body
            else:
                assert conforms(shapes.output_shape, document), document
                world.note(shapes.output_shape, document)
        else:
            assert response.status == 400, document
            assert document["__type"].endswith("Exception")
    if world.state:
        store = KeyStore(OWNER)
        load_state(store, world.state)
        assert dump_state(store) == world.state.replace(
            world.service._store.owner.encode(), OWNER.encode()
        )
