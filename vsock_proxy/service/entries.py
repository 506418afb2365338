"""Where the programs whose packages have common names begin.

`enclave` and `parent` are names that a user's own project may have, and Python imports the first
of a name that it finds. The user's folder would then end these programs with a traceback about a
missing module; here it is named.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import complain, keep_exit_status

# Our packages lie beside each other, installed or in a checkout.
_HERE = Path(__file__).resolve().parents[2]


def enclave_agent() -> int:
    """Run ``enclave-agent``; return its exit status."""
    return _run("enclave-agent", "enclave", "enclave.cli")


def enclave_parent() -> int:
    """Run ``enclave-parent``; return its exit status."""
    return _run("enclave-parent", "parent", "parent.cli")


@keep_exit_status
def _run(program: str, package: str, module: str) -> int:
    try:
        require_own(package)
    except ConfigurationError as e:
        complain(program, e)
        return 1
    status: int = import_module(module).main()
    return status


def require_own(*packages: str) -> None:
    """Check that packages of this project are not shadowed by others of the same name.

    Raises:
        ConfigurationError: one is; the error names the file or folder in front of it.
    """
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue  # not installed: the import says so
        found = Path(spec.origin).resolve()
        if found == _HERE / package / "__init__.py":
            continue
        other = found.parent if found.name == "__init__.py" else found
        raise ConfigurationError(
            f"{other} is imported instead of this project's package {package!r}",
            hint=f"rename it, or keep {other.parent} out of PYTHONPATH and sys.path "
            "(PYTHONSAFEPATH=1; pytest --import-mode=importlib, not python -m pytest)",
        )
