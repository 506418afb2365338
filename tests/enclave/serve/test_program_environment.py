"""The variables of programs that use the endpoint: none leads an SDK past it, or to a proxy."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from botocore.loaders import create_loader
from botocore.utils import get_environ_proxies
from hypothesis import given
from hypothesis import strategies as st

from enclave.serve.program_environment import (
    command_environment,
    egress_environment,
    endpoint_environment,
    ignores_endpoint,
    proxy_in_the_way,
    warn_of_variables,
    with_program_credentials,
)
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY = {"HTTP_PROXY": "http://proxy:1", "http_proxy": "http://proxy:1"}


def proxies_of(environ: Mapping[str, str], url: str) -> Mapping[str, str]:
    """Return the proxies botocore would use, in a program with these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        found: Mapping[str, str] = get_environ_proxies(url)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize(
    "listed",
    [{}, {"NO_PROXY": "corp.example"}, {"no_proxy": ""}, {"NO_PROXY": "*", "no_proxy": "*"},
     {"NO_PROXY": "*,a", "no_proxy": " b , "}],
)  # fmt: skip
def test_sdks_reach_the_endpoint_without_a_proxy(listed: dict[str, str], host: str) -> None:
    url = f"http://[{host}]:8009" if ":" in host else f"http://{host}:8009"
    env = {**PROXY, **listed}
    env |= endpoint_environment(env, host, url)
    assert env["AWS_ENDPOINT_URL_KMS"] == url
    assert proxies_of(env, url) == {}
    assert proxy_in_the_way(env, host) is None


def test_other_hosts_are_reached_as_before() -> None:
    env = {**PROXY, "NO_PROXY": "corp.example"}
    assert proxies_of(env, "http://corp.example") == {}
    env |= endpoint_environment(env, "127.0.0.1", "http://127.0.0.1:8009")
    # no_proxy comes first in Python: without the entries of NO_PROXY it would hide them.
    assert env["no_proxy"] == env["NO_PROXY"] == "corp.example,127.0.0.1,localhost,::1,[::1]"
    assert proxies_of(env, "http://corp.example") == {}
    assert "http" in proxies_of(env, "http://elsewhere.example")


_lists = st.lists(st.sampled_from(["a.example", "127.0.0.1", ".b", "::1", "10.0.0.0/8"])).map(
    ",".join
)


@given(st.dictionaries(st.sampled_from(["no_proxy", "NO_PROXY"]), _lists))
def test_no_entry_is_lost_or_there_twice(environ: dict[str, str]) -> None:
    changed = endpoint_environment(environ, "127.0.0.1", "http://127.0.0.1:8009")
    for name, listed in environ.items():
        before, after = listed.split(","), changed[name].split(",")
        assert set(before) - {""} <= set(after)
        assert after[len(before) :] == [each for each in after[len(before) :] if each not in before]
    assert endpoint_environment({**environ, **changed}, "127.0.0.1", "http://127.0.0.1:8009") == (
        changed
    )


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p"}, None),
        ({"HTTP_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://p"}, "HTTP_PROXY"),
        ({"all_proxy": "http://p", "NO_PROXY": "localhost"}, "all_proxy"),
        ({"http_proxy": "http://p", "NO_PROXY": "a, 127.0.0.1"}, None),
        ({"http_proxy": "http://p", "NO_PROXY": "127.0.0.1", "no_proxy": "a"}, "http_proxy"),
        ({"http_proxy": "http://p", "no_proxy": "*"}, None),
    ],
)
def test_a_proxy_in_the_way_is_named(environ: dict[str, str], named: str | None) -> None:
    assert proxy_in_the_way(environ, "127.0.0.1") == named


def test_a_program_gets_a_region_and_credentials_if_it_has_none() -> None:
    env = command_environment({}, "us-east-1")
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "us-east-1"
    assert env["AWS_ACCESS_KEY_ID"]
    own = {"AWS_REGION": "eu-west-1", "AWS_PROFILE": "p"}
    assert command_environment(own, "us-east-1") == own


@pytest.mark.parametrize(("value", "ignored"), [("true", True), ("TRUE", True), ("false", False)])
def test_a_variable_by_which_sdks_ignore_the_endpoint_is_noticed(value: str, ignored: bool) -> None:
    assert ignores_endpoint({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": value}) == ignored
    assert not ignores_endpoint({})


@pytest.mark.parametrize("name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
def test_a_variable_that_sdks_reject_beside_the_endpoint_is_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_variables({name: "True"}, TcpAddress("127.0.0.1", 1), around=True)
    [message] = caplog.messages
    assert f"-- env -u {name} COMMAND" in message
    caplog.clear()
    warn_of_variables({name: "true"}, TcpAddress("127.0.0.1", 1), around=False)
    warn_of_variables({name: "false"}, TcpAddress("127.0.0.1", 1), around=True)
    assert not caplog.messages


def test_the_rules_of_kms_endpoints_still_exclude_these_variables() -> None:
    """botocore's copy of the rules, which the SDKs of other languages are made from."""
    rules = json.dumps(create_loader().load_service_model("kms", "endpoint-rule-set-1"))
    for kind in ("FIPS", "Dualstack"):
        assert f"{kind} and custom endpoint are not supported" in rules


def test_programs_find_the_egress_proxy_and_go_past_it_to_names_of_their_own() -> None:
    given = {"NO_PROXY": "internal.example", "HTTP_PROXY": "http://other:1"}
    changes = egress_environment(given, "127.0.0.1", "http://127.0.0.1:8010", {"b.example", "a"})
    listed = "internal.example,127.0.0.1,localhost,::1,[::1],a,b.example"
    assert changes == {
        "HTTPS_PROXY": "http://127.0.0.1:8010",
        "https_proxy": "http://127.0.0.1:8010",
        "NO_PROXY": listed,
        "no_proxy": listed,
    }


def test_the_programs_credentials_are_the_only_ones_of_its_sdk() -> None:
    others = {
        "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "y",
        "AWS_CREDENTIAL_EXPIRATION": "2099-01-01T00:00:00Z",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": "arn",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/r",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/f",
    }  # fmt: skip
    url = "http://127.0.0.1:1/credentials"
    env = with_program_credentials({**others, **PROXY, "X": "y"}, "127.0.0.1", url, "token")
    assert env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] == url
    assert env["AWS_CONTAINER_AUTHORIZATION_TOKEN"] == "token"
    assert (env["X"], env["AWS_ROLE_ARN"]) == ("y", "arn")
    assert not env.keys() & (others.keys() - {"AWS_ROLE_ARN"})
    assert proxies_of(env, url) == {}
    # What the endpoint adds for SDKs that have none would come first.
    assert "AWS_ACCESS_KEY_ID" not in command_environment(env, "us-east-1")
