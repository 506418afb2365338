"""The state of a simulated KMS as JSON: keys, aliases, policies, tags, grants. No I/O.

Key material is in the clear: nothing real trusts a simulated KMS.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from enclave_simulator.kms.grants import Grant
from enclave_simulator.kms.keys import STATES, Alias, Family, Key, Material, Materials, Usage
from enclave_simulator.kms.material import decode_material, encode_material
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.regions import Region, is_region
from enclave_simulator.kms.specs import USAGES
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from enclave_simulator.kms.store import KeyStore

T = TypeVar("T")

_VERSION = 1


class StateError(ValueError):
    """Bytes that are not the state of a simulated KMS, or of another account's."""


def dump_state(store: KeyStore) -> bytes:
    """Return the state of a store."""
    families: list[Family] = []
    materials: list[Materials] = []
    keys, aliases = [], []
    for region in store.regions.values():
        for key in region.keys.values():
            # Related multi-Region keys share both: each is written once.
            if not any(each is key.materials for each in materials):
                materials.append(key.materials)
            if key.family is not None and not any(each is key.family for each in families):
                families.append(key.family)
            keys.append(_dump_key(key, families, materials))
        aliases += [
            {
                "region": region.name,
                "name": alias.name,
                "key": alias.key.id,
                "created": _time(alias.created),
                "updated": _time(alias.updated),
            }
            for alias in region.aliases.values()
        ]
    document = {
        "version": _VERSION,
        "owner": store.owner,
        "token_secret": _blob(store.token_secret),
        "regions": list(store.regions),
        "families": [{"primary": f.primary, "regions": f.regions} for f in families],
        "materials": [_dump_materials(each) for each in materials],
        "keys": keys,
        "aliases": aliases,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _dump_key(key: Key, families: list[Family], materials: list[Materials]) -> dict[str, Any]:
    return {
        "id": key.id,
        "arn": key.arn,
        "spec": key.spec,
        "usage": key.usage,
        "origin": key.origin,
        "materials": next(i for i, each in enumerate(materials) if each is key.materials),
        "policy": key.policy.text,
        "description": key.description,
        "created": _time(key.created),
        "state": key.state,
        "deletion": _time(key.deletion),
        "window": key.window,
        "tags": key.tags,
        "family": next((i for i, each in enumerate(families) if each is key.family), None),
        "last_usage": None
        if key.last_usage is None
        else [
            key.last_usage.operation,
            _time(key.last_usage.when),
            key.last_usage.event_id,
            key.last_usage.request_id,
        ],
        "grants": [
            {
                "id": grant.id,
                "name": grant.name,
                "grantee": grant.grantee,
                "retiring": grant.retiring,
                "operations": grant.operations,
                "equals": grant.equals,
                "subset": grant.subset,
                "source_arn": grant.source_arn,
                "issuer": grant.issuer,
                "created": _time(grant.created),
            }
            for grant in key.grants.values()
        ],
    }


def _dump_materials(materials: Materials) -> dict[str, Any]:
    return {
        "period": materials.period,
        "rotates": _time(materials.rotates),
        "versions": [
            {
                "id": each.id,
                "secret": None if each.secret is None else _blob(encode_material(each.secret)),
                "state": each.state,
                "rotated": _time(each.rotated),
                "rotation": each.rotation,
                "expires": _time(each.expires),
                "description": each.description,
            }
            for each in materials.versions
        ],
    }


def load_state(store: KeyStore, state: bytes) -> None:
    """Put a state into an empty store.

    Raises:
        StateError: it is malformed, or of another account.
    """
    try:
        document = parse_json(state)
        version, account = document["version"], document["owner"].split(":")[4]
        if (version, account) == (_VERSION, store.owner.split(":")[4]):
            store.token_secret = base64.b64decode(document["token_secret"], validate=True)
            store.regions = _load_regions(document, store)
            return
    except KmsError as e:
        raise StateError(e.message or e.type) from e
    except (LookupError, TypeError, AttributeError, OverflowError) as e:
        raise StateError("a member is missing, or of another type") from e
    except ValueError as e:
        raise StateError(str(e)) from e
    raise StateError(f"version {version!r}, account {account!r}")


def _load_regions(document: dict[str, Any], store: KeyStore) -> dict[str, Region]:
    regions = {name: Region(name) for name in document["regions"] if is_region(name)}
    families = [
        Family(_get(each, "primary", str), [_is(name, str) for name in each["regions"]])
        for each in document["families"]
    ]
    if any(name not in regions for each in families for name in (each.primary, *each.regions)):
        raise ValueError("a multi-Region key is in a Region that is not there")
    specs = {each["materials"]: each["spec"] for each in document["keys"]}
    materials = [
        _load_materials(each, specs[number]) for number, each in enumerate(document["materials"])
    ]
    for each in document["keys"]:
        key = _load_key(each, families, materials)
        regions[key.region].keys[key.id] = key
    for region in regions.values():
        _check_families(region, regions)
    for each in document["aliases"]:
        region, name = regions[each["region"]], _get(each, "name", str)
        region.aliases[name] = Alias(
            name,
            store.arn(region, name),
            region.keys[each["key"]],
            _moment(each["created"]),
            _moment(each["updated"]),
        )
    return regions


def _check_families(region: Region, regions: dict[str, Region]) -> None:
    for key in region.keys.values():
        if key.family is not None and not (
            {region.name, key.family.primary} <= set(key.family.regions)
            and all(key.id in regions[name].keys for name in key.family.regions)
        ):
            raise ValueError("a multi-Region key is not in the Regions that it names")


def _load_key(each: dict[str, Any], families: list[Family], materials: list[Materials]) -> Key:
    spec, usage, family = each["spec"], each["usage"], each["family"]
    if usage not in USAGES[spec] or each["state"] not in STATES:
        raise ValueError(f"KeyUsage {usage!r} of KeySpec {spec!r}, state {each['state']!r}")
    grants = [_load_grant(grant) for grant in each["grants"]]
    return Key(
        _get(each, "id", str),
        _get(each, "arn", str),
        spec,
        usage,
        _get(each, "origin", str),
        materials[_get(each, "materials", int)],
        parse_policy(_get(each, "policy", str)),
        _get(each, "description", str),
        _moment(each["created"]),
        each["state"],
        _moment_or_none(each["deletion"]),
        None if each["window"] is None else _get(each, "window", int),
        _texts(each["tags"]),
        {grant.id: grant for grant in grants},
        None if family is None else families[_is(family, int)],
        None if each["last_usage"] is None else _load_usage(*each["last_usage"]),
    )


def _load_usage(operation: Any, when: Any, event_id: Any, request_id: Any) -> Usage:
    return Usage(_is(operation, str), _moment(when), _is(event_id, str), _is(request_id, str))


def _load_grant(each: dict[str, Any]) -> Grant:
    return Grant(
        bytes.fromhex(each["id"]).hex(),
        _get(each, "name", str),
        _get(each, "grantee", str),
        _get(each, "retiring", str),
        tuple(_is(operation, str) for operation in each["operations"]),
        None if each["equals"] is None else _texts(each["equals"]),
        None if each["subset"] is None else _texts(each["subset"]),
        _get(each, "source_arn", str),
        _get(each, "issuer", str),
        _moment(each["created"]),
    )


def _load_materials(each: dict[str, Any], spec: str) -> Materials:
    def version(given: dict[str, Any]) -> Material:
        secret = given["secret"]
        return Material(
            _get(given, "id", str),
            None
            if secret is None
            else decode_material(spec, base64.b64decode(secret, validate=True)),
            _get(given, "state", str),
            _moment_or_none(given["rotated"]),
            _get(given, "rotation", str),
            _moment_or_none(given["expires"]),
            _get(given, "description", str),
        )

    period = each["period"]
    if period is not None and not 90 <= _is(period, int) <= 2560:
        raise ValueError(f"a rotation period of {period} days")
    return Materials(
        [version(given) for given in each["versions"]], period, _moment_or_none(each["rotates"])
    )


def _is(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:  # `isinstance` would accept true for 1
        raise TypeError(kind.__name__)
    return value


def _get(each: dict[str, Any], name: str, kind: type[T]) -> T:
    return _is(each[name], kind)


def _texts(value: Any) -> dict[str, str]:
    return {_is(key, str): _is(item, str) for key, item in _is(value, dict).items()}


def _blob(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its offset")
    return moment


def _moment_or_none(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)
