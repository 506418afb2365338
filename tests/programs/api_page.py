"""Writes docs/api.md from the docstrings of `enclave.__all__`: ``make api``.

A test compares the page with what this makes, so that it cannot fall behind.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import enclave

MAX_LINE = 88

PAGE = Path(__file__).resolve().parents[2] / "docs/api.md"

GROUPS = {
    "Calls": ("Agent", "attach", "RandomPool", "KeyPairAhead"),
    "The network": ("EgressDialer",),
    "Results": (
        "DecryptResult",
        "DataKeyResult",
        "DataKeyPairResult",
        "SharedSecretResult",
        "KmsResponse",
    ),
    "Credentials": ("Credentials", "CredentialsProvider"),
    "Attestation documents": ("verify", "parse", "AttestationDocument"),
    "Attested TLS": (
        "connect",
        "AttestedContext",
        "AttestedSocket",
        "requests_session",
        "httpx_transport",
        "httpx_async_transport",
    ),
    "The NSM and the NitroTPM": (
        "Attester",
        "Nsm",
        "DevNsm",
        "NsmDevice",
        "NitroTpm",
        "DevTpm",
        "TpmDevice",
        "Recipient",
    ),
    "Logs": ("SinkHandler",),
    "The process": ("protect_memory",),
    "Errors": (),  # every other name: the family of AgentError
}

HEAD = """# The public API of `enclave`

Made from the docstrings by `make api`. Every name here is in `enclave.__all__`; every other name is
private. Whatever the input, these names raise `AgentError` and its family, and nothing else.
"""


def page() -> str:
    """Return the page's text."""
    grouped = {name for names in GROUPS.values() for name in names}
    errors = [name for name in enclave.__all__ if name not in grouped]
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        if names:
            parts += [_entry(name, getattr(enclave, name)) for name in names]
        else:
            parts += ["| error | when |\n|---|---|"]
            parts[-1] += "".join(f"\n{_error(getattr(enclave, name))}" for name in errors) + "\n"
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    lines = [f"### {name}\n", _signature(name, value), _text(value)]
    if inspect.isclass(value):
        for method, function in vars(value).items():
            lines += _method(method, function)
        for base in value.__mro__[1:]:
            if base.__module__.startswith("enclave."):
                for method, function in vars(base).items():
                    if method not in vars(value):
                        lines += _method(method, function)
    return "\n".join(lines)


def _method(name: str, value: Any) -> list[str]:
    if name.startswith("_") or getattr(value, "__isabstractmethod__", False):
        return []
    if isinstance(value, property):
        return [f"#### .{name}\n", _text(value)]
    function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    if not inspect.isfunction(function):
        return []
    return [f"#### .{name}\n", _signature(name, function), _text(function)]


def _signature(name: str, value: Any) -> str:
    """The signature as a block of code, one argument a line if it is long; "" for a Protocol."""
    if getattr(value, "_is_protocol", False):
        return ""
    signature = inspect.signature(value)
    given = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    bare = signature.replace(parameters=given, return_annotation=inspect.Signature.empty)
    returns = "" if inspect.isclass(value) else f" -> {signature.return_annotation}"
    text = _plain(f"{name}{bare}{returns}")
    if len(text) > MAX_LINE:
        starred = [
            *(["*"] if any(each.kind is each.KEYWORD_ONLY for each in given) else []),
        ]
        first = [each for each in given if each.kind is not each.KEYWORD_ONLY]
        rest = [each for each in given if each.kind is each.KEYWORD_ONLY]
        lines = "".join(f"\n    {_plain(str(each))}," for each in [*first, *starred, *rest])
        text = f"{name}({lines}\n){_plain(returns)}"
    return f"```python\n{text}\n```\n"


def _plain(text: str) -> str:
    """Take the quotes off annotations, and addresses off the defaults that are functions."""
    text = re.sub(r"= <.* at 0x[0-9a-f]+>+", "= ...", text)
    return re.sub(r": '([^']*)'", r": \1", text).replace("<factory>", "...").replace("-> '", "-> ")


def _error(value: type) -> str:
    family = next(base.__name__ for base in value.__mro__[1:])
    summary = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return f"| `{value.__name__}` ({family}) | {summary} |"


def _text(value: Any) -> str:
    """A docstring as Markdown: sections of Google's style become lists."""
    out: list[str] = []
    section = False
    for line in (inspect.getdoc(value) or "").split("\n"):
        if heading := re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            out += [f"**{heading[1]}**", ""]
            section = True
        elif section and re.match(r"    \S", line):
            named = re.match(r"    (\w[\w, .*]*): (.*)", line)
            out.append(f"- `{named[1]}`: {named[2]}" if named else line.strip())
        elif section and line.strip():
            out.append("  " + line.strip())
        else:
            section = section and not line.strip()
            out.append(line)
    return "\n".join(out).strip() + "\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(enclave.__all__)} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
