"""The command line, ``enclave-agent``: the names, output and meaning of ``aws kms``.

Errors are two lines on standard error, ``enclave-agent: error: ...`` and ``... hint: ...``, and
the AWS CLI's exit codes. Nothing is printed on standard output unless all of it can be.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import logging
import sys
from typing import TYPE_CHECKING, NoReturn

from enclave.agent import DEFAULT_PROXY, Agent
from enclave.errors import AgentError, ConfigurationError, CredentialsError, KmsRefusedError
from enclave.kms.client import CONNECT_TIMEOUT, READ_TIMEOUT
from enclave.output import render
from enclave.serve import command as serve
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROG = "enclave-agent"

# AWS CLI User Guide, "Command line return codes".
EXIT_USAGE, EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_OTHER = 252, 253, 254, 255


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        with _logging(debug=arguments.debug, verbose=arguments.verbose):
            if arguments.command == "serve":
                return serve.run(arguments)
            text = generate_random(arguments)
        sys.stdout.write(text)
        sys.stdout.flush()
    except AgentError as e:
        _complain(str(e), e.hint)
        return _exit_code(e)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while it ends.
        sys.stdout = None
        return EXIT_OTHER
    except OSError as e:
        _complain(f"cannot print the answer: {e.strerror}", "")
        return EXIT_OTHER
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        logging.getLogger("enclave").debug("internal error", exc_info=True)
        _complain(
            f"internal error: {type(e).__name__}",
            "this is a bug in enclave-agent: please report what --debug shows",
        )
        return EXIT_OTHER
    return 0


def generate_random(arguments: argparse.Namespace) -> str:
    """The command ``generate-random``: what it prints."""
    with Agent(
        region=arguments.region,
        endpoint_url=arguments.endpoint_url,
        proxy=arguments.proxy,
        ca_bundle=arguments.ca_bundle,
        connect_timeout=arguments.cli_connect_timeout,
        read_timeout=arguments.cli_read_timeout,
    ) as agent:
        secret = agent.generate_random(
            arguments.number_of_bytes, custom_key_store_id=arguments.custom_key_store_id
        )
    answer = {"Plaintext": base64.b64encode(secret).decode()}
    return render(answer, output=arguments.output, query=arguments.query)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message, hint=f"see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG, description="Attested AWS KMS from inside a Nitro Enclave.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "generate-random",
        help="random bytes from KMS that only this enclave can read",
        description="Like `aws kms generate-random`, attested: KMS encrypts the bytes for a key "
        "pair of this enclave, and they are opened here.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--number-of-bytes", type=int, required=True, metavar="N", help="1 to 1024"
    )
    command.add_argument(
        "--custom-key-store-id", metavar="ID", help="the AWS CloudHSM key store to ask"
    )
    _add_global_options(command)
    _add_global_options(serve.add_parser(commands))
    return parser


def _add_global_options(command: argparse.ArgumentParser) -> None:
    options = command.add_argument_group("options of every command")
    options.add_argument("--region", metavar="REGION", help="else AWS_REGION, AWS_DEFAULT_REGION")
    options.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="https only; else AWS_ENDPOINT_URL_KMS, or the region's",
    )
    options.add_argument(
        "--proxy",
        metavar="ADDRESS",
        default=str(DEFAULT_PROXY),
        help="where vsock-proxy listens: vsock://CID:PORT, unix:/PATH or tcp://HOST:PORT "
        "(default: %(default)s)",
    )
    options.add_argument(
        "--ca-bundle",
        metavar="FILE",
        help="CA certificates, PEM; else AWS_CA_BUNDLE, or botocore's",
    )
    options.add_argument(
        "--output", choices=("json", "text"), default="json", help="default: %(default)s"
    )
    options.add_argument("--query", metavar="JMESPATH", help="print only this part of the answer")
    options.add_argument(
        "--cli-connect-timeout",
        type=float,
        default=CONNECT_TIMEOUT,
        metavar="SECONDS",
        help="for one connection, TLS included (default: %(default)g)",
    )
    options.add_argument(
        "--cli-read-timeout",
        type=float,
        default=READ_TIMEOUT,
        metavar="SECONDS",
        help="for one whole answer (default: %(default)g)",
    )
    options.add_argument(
        "--verbose", action="store_true", help="show the hops of a call on standard error"
    )
    options.add_argument(
        "--debug", action="store_true", help="show everything but secrets on standard error"
    )


@contextlib.contextmanager
def _logging(*, debug: bool, verbose: bool) -> Iterator[None]:
    """Log lines on standard error for the length of one command."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter(f"{PROG}: %(message)s"))
    # botocore's loggers are left alone: at debug level they show session tokens.
    loggers = [logging.getLogger(name) for name in ("enclave", "vsock_proxy")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return _printable(super().formatMessage(record))


def _complain(error: str, hint: str) -> None:
    print(f"{PROG}: error: {_printable(error)}", file=sys.stderr)
    if hint:
        print(f"{PROG}: hint: {_printable(hint)}", file=sys.stderr)


def _printable(text: str) -> str:
    """Without control characters: parts of a message may come from a hostile parent."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _exit_code(error: AgentError) -> int:
    if isinstance(error, KmsRefusedError):
        return EXIT_REFUSED
    if isinstance(error, CredentialsError):
        return EXIT_CONFIGURATION
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    return EXIT_OTHER


if __name__ == "__main__":
    sys.exit(main())
