"""The public face: every name of `enclave.__all__` is there, is shown, and keeps no secrets."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import enclave
from tests.paths import ROOT
from tests.programs.api_page import PAGE, page
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("name", enclave.__all__)
def test_each_public_name_loads_and_has_a_docstring(name: str) -> None:
    value = getattr(enclave, name)
    assert name in dir(enclave)
    assert inspect.getdoc(value)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING are what mypy and pyright read."""
    tree = ast.parse((ROOT / "enclave/__init__.py").read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == enclave._HOMES
    assert sorted(homes) == enclave.__all__


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make api"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = enclave.Agnet


def functions() -> Iterator[tuple[str, object]]:
    """Every public function, class and method."""
    for name in enclave.__all__:
        value = getattr(enclave, name)
        yield name, value
        if inspect.isclass(value):
            for method, function in inspect.getmembers(value, inspect.isfunction):
                yield f"{name}.{method}", function


def test_no_default_argument_holds_anything_of_the_process() -> None:
    """`help()` and `inspect.signature` print defaults: `os.environ` has the secret key in it."""
    plain = (str, bytes, int, float, bool, tuple, type(None))
    seen = 0
    for name, function in functions():
        try:
            parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        except ValueError:  # Protocol classes and exceptions of C have none
            continue
        for parameter in parameters:
            default = parameter.default
            seen += default is not inspect.Parameter.empty
            assert default is not os.environ, name
            assert (
                default is inspect.Parameter.empty
                or isinstance(default, plain)
                or type(default).__module__.startswith(("enclave.", "vsock_proxy.", "datetime"))
                or callable(default)
            ), f"{name}({parameter.name}={default!r})"
    assert seen > 20, "the test looks where there is nothing"


def test_help_prints_no_variable_of_the_environment() -> None:
    secret = "wJalrXUtnFEMI-in-the-environment"
    done = subprocess.run(
        [sys.executable, "-c", "import enclave; help(enclave.Agent); help(enclave)"],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": secret, "PAGER": "cat"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=True,
    )
    assert "generate_random" in done.stdout
    assert secret not in done.stdout + done.stderr
