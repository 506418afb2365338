"""check-config reports every mistake of a file in one run, each with its line and a useful hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.cli import main
from parent.daemon.configuration import SECTIONS, Configuration, load_configuration
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.service.mistakes import each_error
from vsock_proxy.service.settings import MAX_SIZE

if TYPE_CHECKING:
    from pathlib import Path

Check = "Callable[[str], list[tuple[str, str]]]"

WHOLE = """\
proxy:
  allowlist: [{address: kms.example, port: 443}]
  forwards:
  - {name: kms, listen: "vsock://any:8000", to: "tcp://kms.example:443", cids: [16]}
credentials: {cids: [16]}
logs: {cids: [16], to: stderr}
enclaves:
- {name: a, eif: /a.eif, memory_mib: 512, cpus: 2, cid: 16}
operations: {listen: "tcp://127.0.0.1:9100"}
"""

EIGHT = """\
proxy:
  allowlist:
  - {address: kms.eu-central-1.amazonaws.com, port: 443}
  drain_timout: 5 s
  forwards:
  - name: kms
    listen: "8002"
    to: https://kms.eu-central-1.amazonaws.com
    cid: [16]
logs: {cid: [16], to: jurnal}
enclaves:
- {name: a, eif: /opt/a.eif, memory: 512, cpus: 2, cid: 3}
- {name: b, eif: /opt/b.eif, memory_mib: 512, cpu: 2}
"""

HEARTBEAT = """\
logs: {listen: "vsock://any:9000", cids: [16], to: journal}
credentials: {cids: [17]}
enclaves:
- {name: a, eif: /opt/a.eif, memory_mib: 512, cpus: 2, cid: 16}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "parent.yaml"


def mistakes(path: Path, text: str | bytes) -> list[tuple[str, str]]:
    """Each mistake, after the path; and its hint."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    return [(str(e).removeprefix(f"{path}:"), e.hint) for e in each_error(caught.value)]


def test_the_whole_file_has_no_mistake(path: Path) -> None:
    path.write_text(WHOLE)
    assert load_configuration(path).warnings == ()


def test_eight_mistakes_and_two_that_are_missing_keys(path: Path) -> None:
    found = mistakes(path, EIGHT)
    assert [text.split(":")[0] for text, _ in found] == [
        "4", "7", "8", "9", "10", "10", "12", "12", "13", "13",
    ]  # fmt: skip
    texts = dict(found)
    assert texts.keys() >= {
        "4: proxy: unknown key 'drain_timout' (did you mean drain_timeout?)",
        "7: listen: not an address: '8002'",
        "8: to: not an address: 'https://kms.eu-central-1.amazonaws.com'",
        "9: forwards: unknown key 'cid' (did you mean cids?)",
        "10: logs: unknown key 'cid' (did you mean cids?)",
        "12: enclaves: unknown key 'memory' (did you mean memory_mib?)",
        "12: cid: 3 cannot be the CID of an enclave",
        "13: enclaves: unknown key 'cpu' (did you mean cpus?)",
        "13: enclaves: key 'cid' is missing",
    }
    assert "vsock://any:8002" in texts["7: listen: not an address: '8002'"]
    (to,) = (hint for text, hint in found if text.startswith("8: "))
    assert "did you mean tcp://kms.eu-central-1.amazonaws.com:443?" in to
    (log_target,) = (text for text, _ in found if "jurnal" in text)
    assert "journal, stderr, {file: /PATH" in log_target


def test_the_heartbeats_port_and_a_cid_that_no_enclave_has(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(HEARTBEAT)
    assert main(["check-config", str(path)]) == 1
    printed = capsys.readouterr().err
    assert f"error: {path}:1: listen: vsock port 9000 is taken: nitro-cli" in printed
    assert f"warning: {path}:2: cids: no enclave of this file has CID 17; they have 16" in printed


def test_a_warning_alone_does_not_fail(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(WHOLE.replace("credentials: {cids: [16]}", "credentials: {cids: [16, 17]}"))
    assert main(["check-config", str(path)]) == 0
    printed = capsys.readouterr()
    assert "no enclave of this file has CID 17" in printed.err
    assert printed.out == f"{path}: ok, 1 warning\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("any:8000", "any:8002", 5),  # The default address of the credentials.
        ("any:8000", "3:8003", 6),  # The logs' wildcard takes every CID.
        ('vsock://any:8000"', 'tcp://0.0.0.0:9100"', 9),
        ('vsock://any:8000"', 'tcp://[::]:9100"', 9),  # Takes IPv4, too.
        ('vsock://any:8000"', 'tcp://localhost:9100"', 9),
        ('vsock://any:8000"', 'unix:/run//./control"', 9),
    ],
)
def test_two_listeners_of_one_address(path: Path, old: str, new: str, line: int) -> None:
    text = WHOLE.replace(old, new).replace('9100"}', '9100", control: "unix:/run/control"}')
    text = text.replace(", cids: [16]}\ncred", "}\ncred") if "vsock" in old else text
    ((found, _hint),) = mistakes(path, text)
    assert found.startswith(f"{line}: ")
    assert "is taken: forward kms listens on" in found
    assert found.endswith("(line 4)")


LOOP = """\
proxy:
  allowlist: [{address: 127.0.0.1, port: 9443}, {address: a.example, port: 443}]
  forwards:
  - {name: a, listen: "vsock://any:8000", to: "tcp://127.0.0.1:9443"}
  - {name: b, listen: "tcp://[::]:9443", to: "unix:/run/b"}
  - {name: c, listen: "unix:/run/./b", to: "vsock://1:8000"}
  - {name: into, listen: "vsock://any:1", to: "vsock://1:8000"}
  - {name: d, listen: "vsock://any:2", to: "vsock://16:2"}
"""


def test_forwards_that_lead_to_themselves(path: Path) -> None:
    ((found, hint),) = mistakes(path, LOOP)
    assert found == "4: to: leads back to vsock://any:8000, where this forward listens"
    assert "limit" in hint
    path.write_text(LOOP.replace("vsock://1:8000", "tcp://a.example:443"))
    load_configuration(path)
    ((found, _),) = mistakes(
        path, LOOP.replace("vsock://16:2", "vsock://1:2").replace("8000", "9", 1)
    )
    assert found == "8: to: leads back to vsock://any:2, where this forward listens"


def test_the_cid_of_an_enclave_to_listen_on(path: Path) -> None:
    ((found, hint),) = mistakes(
        path, WHOLE.replace("any:8000", "16:8000").replace(", cids: [16]}\ncred", "}\ncred")
    )
    assert found == "4: listen: vsock://16:8000: CID 16 is that of an enclave of this file"
    assert "vsock://any:8000 and cids: [16]" in hint


def test_two_enclaves_with_one_agent(path: Path) -> None:
    """One of them would be ended through the other's agent."""
    first = "- {name: a, eif: /a.eif, memory_mib: 512, cpus: 2, cid: 16"
    agent = ', agent: "unix:/run/agent"}'
    text = WHOLE.replace(
        first + "}", first + agent + "\n" + first.replace("a,", "b,", 1).replace("16", "17") + agent
    )
    ((found, _),) = mistakes(path, text)
    assert found == "9: enclaves: a and b have the same agent unix:/run/agent"


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("cids: [16]}\ncred", "cids: []}\ncred", "4: cids: an empty list: no enclave may connect"),
        ("credentials: {cids: [16]", "credentials: {cids: []", "5: cids: an empty list"),
        ("logs: {cids: [16]", "logs: {cids: []", "6: cids: an empty list"),
        (
            "credentials:",
            '  egress: {listen: "vsock://any:8004", cids: [16], allowlist: []}\ncredentials:',
            "5: allowlist: `egress` has no host that may be connected to",
        ),
    ],
)
def test_nobody_and_nothing_is_permitted_with_a_warning(
    path: Path, old: str, new: str, warning: str
) -> None:
    """To shut a client out by a reload is no mistake, but no use in a file that is written anew."""
    path.write_text(WHOLE.replace(old, new))
    (found,) = load_configuration(path, reloading=True).warnings
    assert found.startswith(f"{path}:{warning}")


def test_an_egress_without_any_allowlist_is_told(path: Path) -> None:
    path.write_text('proxy: {egress: {listen: "vsock://any:8004", cids: [16]}}\n')
    (found,) = load_configuration(path).warnings
    assert found.startswith(f"{path}:1: egress: `egress` has no host")


@pytest.mark.parametrize("key", ["forwards", "egress"])
def test_a_proxy_that_listens_nowhere_is_told(path: Path, key: str) -> None:
    path.write_text(f"proxy: {{{key}: []}}\nlogs: {{cids: [16]}}\n")
    (found,) = load_configuration(path).warnings
    assert found.startswith(f"{path}:1: {key}: an empty list: the proxy listens nowhere")


def test_listeners_that_only_look_alike(path: Path) -> None:
    path.write_text(
        WHOLE.replace("any:8000", "3:8002").replace(
            "credentials: {", 'credentials: {listen: "vsock://4:8002", '
        )
    )
    load_configuration(path)


def test_mistakes_of_all_kinds_at_once(path: Path) -> None:
    """Of a section, of items beside each other, across sections, of the whole."""
    text = WHOLE.replace("port: 443}]", "port: 443000}]").replace("[16]}\nlogs", "[1, 2]}\nlogs")
    text = text.replace("any:8000", "any:9000").replace("cpus: 2", "cpus: none") + "others: 1\n"
    lines = [found.split(":")[0] for found, _ in mistakes(path, text)]
    assert lines == ["2", "4", "5", "5", "8", "10"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cids: [16]}\nlogs", "cids: [16], cids: [17]}\nlogs", "5: credentials: key 'cids' twice"),
        ("memory_mib: 512", "memory_mib: 63", "8: memory_mib: '63' is not an integer in 64.."),
        ("logs: {", "logs: {listen: 'vsock://16:8003', ", "6: cids: 16 is also the CID in"),
        ("memory_mib: 512", "memory_mib: '512'", "8: memory_mib: '512' is not an integer"),
        ("memory_mib: 512", "memory_mib: 512 MiB", "8: memory_mib: '512 MiB' is not an integer"),
        ("memory_mib: 512", "memory_mib: 99999999999", "8: memory_mib: '99999999999' is not an"),
        ("cpus: 2", "cpus: {count: 2}", "8: cpus: a mapping, not a number of CPUs or a list"),
        ("cpus: 2", "cpus: [1, x, 1.5]", "8: cpus: 'x' is not an integer"),
        ("enclaves:\n-", "enclaves:\n -\t", "8: not YAML: "),
        ("cids: [16]}\nlogs", "cids: &a [16], x: *a}\nlogs", "5: not YAML: aliases"),
        ("operations:", "---\noperations:", "9: not YAML: but found another document"),
        ("to: stderr", "to: syslog", "6: to: 'syslog' is not one of: journal, stderr, {file: "),
        ("to: stderr", "to: [journal]", "6: to: a list is not one of: journal, stderr, {file: "),
        ("to: stderr", "to: {file: x}", "6: file: not an absolute path"),
        ("name: a,", "name: a, name: b,", "8: enclaves: key 'name' twice: also on line 8"),
        ("name: a,", "nmae: a,", "8: enclaves: unknown key 'nmae' (did you mean name?)"),
        ("tcp://127.0.0.1:9100", "127.0.0.1:9100", "9: listen: not an address: '127.0.0.1:9100'"),
        ('"tcp://127.0.0.1:9100"', "9100", "9: listen: not an address: '9100'"),
    ],
)
def test_a_mistake_of_each_kind_is_told_once(path: Path, old: str, new: str, expected: str) -> None:
    assert WHOLE.count(old) == 1
    found = mistakes(path, WHOLE.replace(old, new))
    assert found[0][0].startswith(expected)
    assert len(found) == (2 if new.count("x, 1.5") else 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"\n# only this\n", "empty"),
        (b"logs: {}\n#\xff\n", "2: not YAML: byte 0xff is not UTF-8"),
        ("logs: größe\n#".encode("latin-1") + b"\n", "1: not YAML: byte 0xf6 is not UTF-8"),
        (b"logs: {}\n\nx: \x1b[31m\n", "3: not YAML: the character U+001B is not allowed"),
        (b"#" * (MAX_SIZE + 1), f"more than {MAX_SIZE} bytes"),
        (b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "2: not YAML: aliases"),
        (b"logs:\n\tcids: any\n", "2: not YAML: "),
        (b"- logs\n", "1: a list, not a mapping"),
        (b"logs\n", "1: 'logs', not a mapping"),
        (b"1: x\n", "1: '1' is not text in YAML"),
    ],
)
def test_files_that_are_not_a_configuration(path: Path, data: bytes, expected: str) -> None:
    found = mistakes(path, data)
    assert found[0][0].strip().startswith(expected)


def test_the_hint_for_tabs(path: Path) -> None:
    ((_, hint),) = mistakes(path, b"logs:\n\tcids: any\n")
    assert "spaces" in hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n", "vsock-proxy"),
        ("---\nmemory_mib: 512\ncpu_count: 2\n", "nitro-enclaves-allocator"),
    ],
)
def test_awss_own_files_are_recognised(path: Path, text: str, said: str) -> None:
    ((found, hint),) = mistakes(path, text)
    assert said in found
    assert "enclave-parent" in found
    assert "docs/parent.md" in hint


def test_hints_fit_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The allowlist's file is not named by an option."""
    for arguments, has_option in (
        (["check-config", str(path)], False),
        (["run", "--config", str(path)], True),
        (["status", "--config", str(path)], True),
    ):
        assert main(arguments) == 1
        printed = capsys.readouterr().err
        assert f"cannot read {path}: No such file" in printed
        assert ("--config" in printed) == has_option
    path.write_text(WHOLE.replace("[{address: kms.example, port: 443}]", "nowhere.yaml"))
    assert main(["check-config", str(path)]) == 1
    printed = capsys.readouterr().err
    assert f"{path}:2: allowlist: cannot read {path.parent}/nowhere.yaml" in printed
    assert "--config" not in printed


def test_a_forward_to_a_host_on_no_allowlist(path: Path) -> None:
    text = WHOLE.replace("tcp://kms.example", "tcp://kms.elsewhere")
    ((found, hint),) = mistakes(path, text)
    assert found == "4: to: kms.elsewhere:443 is not on the allowlist"
    assert "{address: kms.elsewhere, port: 443}" in hint
    # With an allowlist that cannot be read nothing is known about its hosts.
    broken = text.replace("port: 443}]", "port: x}]")
    assert [found.split(":")[0] for found, _ in mistakes(path, broken)] == ["2"]


_lines = WHOLE.splitlines()
_words = st.sampled_from(
    ["x", "[]", "{}", "1", "-1", "'", "[1, [2]]", "any", "&a", "*a", "\t", "vsock://any:9000", "~"]
)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(_lines) - 1), st.integers(0, 80), st.integers(0, 12), _words),
        max_size=4,
    )
)
def test_whatever_is_wrong_every_error_has_a_place(
    edits: list[tuple[int, int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = list(_lines)
    for number, start, length, word in edits:
        line = lines[number]
        lines[number] = line[:start] + word + line[start + length :]
    path = tmp_path_factory.mktemp("any") / "parent.yaml"
    path.write_text("\n".join(lines))
    try:
        configuration = load_configuration(path)
    except AgentError as e:
        errors = each_error(e)
        assert len({*map(str, errors)}) == len(errors)
        for error in errors:
            assert str(error).startswith(f"{path}:")
            assert str(error).isprintable()
    else:
        assert isinstance(configuration, Configuration)


def test_sections_are_all_known() -> None:
    assert set(SECTIONS) == {"proxy", "credentials", "logs", "enclaves", "operations"}
