"""The tests' own process keeps its environment: every program that a test starts inherits it."""

from __future__ import annotations

import os

from tests.conftest import ENVIRONMENT


def test_no_import_and_no_test_has_changed_the_environment() -> None:
    """All modules of tests have been imported before the first test ran."""

    def without_pytest_s_own(variables: dict[str, str]) -> dict[str, str]:
        return {name: text for name, text in variables.items() if not name.startswith("PYTEST_")}

    assert without_pytest_s_own(dict(os.environ)) == without_pytest_s_own(ENVIRONMENT)
