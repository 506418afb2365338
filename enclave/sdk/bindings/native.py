"""The compiled module: loaded and initialised once; calls, buffers and strings of the C side.

Every return code is checked here. Every buffer that C fills is owned, wiped and freed here, also
after an error. cffi releases the GIL during each call.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

from enclave.errors import ConfigurationError
from enclave.forking import importing
from enclave.sdk.errors import SdkCallError, SdkNotBuiltError
from vsock_proxy.service.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

MODULE = "enclave.sdk._native"
"""The name of what `python -m enclave.sdk.build` compiles."""

MAX_INPUT = 65_536
"""Bytes of any input; the C code copies some of them onto its stack."""


class Native:
    """One compiled module. Made by `load`, once in a process.

    Attributes:
        ffi: cffi's view of the C types.
        lib: the C functions.
        allocator: the SDK's.
        build: which library this was compiled against, for people to read.
        prefixes: the folders in which the build looked for that library, the standard ones
            excepted.
        stand_in: whether that is the library of this project's own tests.
    """

    def __init__(self, module: Any) -> None:
        self.ffi, self.lib = module.ffi, module.lib
        self.build: str = self.ffi.string(self.lib.AGENT_SDK_BUILD).decode()
        prefixes: str = self.ffi.string(self.lib.AGENT_SDK_PREFIXES).decode()
        self.prefixes = tuple(filter(None, prefixes.split(os.pathsep)))
        self.stand_in = bool(self.lib.AGENT_SDK_STAND_IN)
        # Every other function aborts the process before this call, which may run only once.
        self.lib.aws_nitro_enclaves_library_init(self.ffi.NULL)
        self.allocator = self.lib.aws_nitro_enclaves_get_allocator()

    def check_genuine(self) -> None:
        """Raise SdkNotBuiltError if the library is the one of this project's own tests."""
        if self.stand_in:
            raise SdkNotBuiltError("the bindings are to a stand-in for tests, not to the C SDK")

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function that returns AWS_OP_SUCCESS or AWS_OP_ERR.

        Raises:
            SdkCallError: it returned anything but success.
        """
        self.lib.aws_reset_error()  # the error of an older call would be reported otherwise
        if getattr(self.lib, function)(*arguments) != 0:
            raise self.error(function)

    def error(self, function: str) -> SdkCallError:
        """Return the error of a function that has just failed in this thread."""
        code = self.lib.aws_last_error()
        name = self.ffi.string(self.lib.aws_error_name(code)).decode("ascii", "replace")
        return SdkCallError(function, name if code else "")

    @contextmanager
    def input(self, data: bytes) -> Iterator[Any]:
        """Give C 1..`MAX_INPUT` bytes as an ``aws_byte_buf``, only to read.

        Raises:
            ConfigurationError: there are no bytes, or too many.
        """
        if not 0 < len(data) <= MAX_INPUT:
            raise ConfigurationError(
                f"{len(data)} bytes for the C SDK, not 1..{MAX_INPUT}",
                hint="--engine python takes every size that KMS takes",
            )
        with self.ffi.from_buffer(data) as held:
            yield self.ffi.new("struct aws_byte_buf *", (len(data), held, len(data)))

    @contextmanager
    def output(self) -> Iterator[Any]:
        """Give C an ``aws_byte_buf`` to fill; it is wiped and freed at the end."""
        # `new` zeroes it: if C fails early, it cleans up buffers that it has not initialised.
        buffer = self.ffi.new("struct aws_byte_buf *")
        try:
            yield buffer
        finally:
            self.lib.aws_byte_buf_clean_up_secure(buffer)

    @contextmanager
    def string(self, text: str | None) -> Iterator[Any]:
        """Give C text as an ``aws_string``, None as NULL; it is wiped and freed at the end.

        Raises:
            ConfigurationError: the text holds a zero byte, or is longer than `MAX_INPUT`.
        """
        if text is None:
            yield self.ffi.NULL
            return
        data = text.encode()
        if b"\0" in data or len(data) > MAX_INPUT:
            raise ConfigurationError(
                "a text for the C SDK is too long, or holds a zero byte",
                hint=f"at most {MAX_INPUT} bytes of UTF-8",
            )
        made = self.lib.aws_string_new_from_array(self.allocator, data, len(data))
        if made == self.ffi.NULL:
            raise self.error("aws_string_new_from_array")
        try:
            yield made
        finally:
            self.lib.aws_string_destroy_secure(made)

    def bytes_of(self, buffer: Any) -> bytes:
        """Return a copy of what C wrote."""
        if not buffer.len:
            return b""  # its pointer is NULL
        data: bytes = self.ffi.unpack(self.ffi.cast("char *", buffer.buffer), buffer.len)
        return data


def check_built() -> None:
    """Raise SdkNotBuiltError if the bindings are not built; load no C code into this process."""
    if find_spec(MODULE) is None:
        raise SdkNotBuiltError("the bindings to the C SDK are not built")


_loaded: Native | None = None


def load() -> Native:
    """Load the C library into this process and initialise it, once for all threads.

    Raises:
        SdkNotBuiltError: the bindings are not built, do not load, or are to a stand-in.
    """
    global _loaded  # noqa: PLW0603 (the C library is as global, and may be initialised once)
    with importing:  # a fork waits for it
        if _loaded is None:
            try:
                module = import_module(MODULE)
            except ImportError as e:
                if isinstance(e, ModuleNotFoundError) and e.name == MODULE:
                    raise SdkNotBuiltError("the bindings to the C SDK are not built") from e
                raise _not_loadable(e) from e
            native = Native(module)
            native.check_genuine()
            _loaded = native
        return _loaded


def load_file(path: Path) -> Native:
    """Load a compiled module from a path, a stand-in too: for the build's check and for tests.

    Raises:
        SdkNotBuiltError: it does not load.
    """
    name = path.name.partition(".")[0]
    loader = ExtensionFileLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # noqa: S101 (for mypy: it is None only without a loader)
    try:
        with _unlisted():
            module = module_from_spec(spec)  # this is where cffi's module initialises itself
            loader.exec_module(module)
    except ImportError as e:
        raise _not_loadable(e) from e
    return Native(module)


@contextmanager
def _unlisted() -> Iterator[None]:
    """Undo what cffi does to the loaded modules: `load` would take this one for the installed."""
    before = _listed()
    try:
        yield
    finally:
        for name in _listed():
            del sys.modules[name]
        sys.modules.update(before)


def _listed() -> dict[str, ModuleType]:
    """Return the loaded modules that cffi lists under the name of the installed one."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".lib")[0] == MODULE
    }


def _not_loadable(error: ImportError) -> SdkNotBuiltError:
    message = f"the bindings to the C SDK do not load: {error}"
    if isinstance(error, ModuleNotFoundError):  # cffi's part that runs the bindings
        return SdkNotBuiltError(message, hint=install_command("sdk"))
    return SdkNotBuiltError(message)
