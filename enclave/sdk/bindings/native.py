"""The compiled module: loaded and initialised once; calls, buffers and strings of the C side.

Every return code is checked here, and every buffer that C fills is owned, wiped and freed here,
whatever happens. cffi releases the GIL during each call.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from enclave.errors import ConfigurationError
from enclave.forking import importing
from enclave.sdk.errors import SdkCallError, SdkNotBuiltError

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "enclave.sdk._native"
"""What `python -m enclave.sdk.build` makes."""

MAX_INPUT = 65_536
"""Bytes of any input; the C code copies some of them onto its stack."""


class Native:
    """One compiled module. Made by `load`, once.

    Attributes:
        ffi: cffi's view of the C types.
        lib: the C functions.
        allocator: the SDK's.
        build: which library this was compiled against, in words.
        stand_in: whether that is the library of this project's own tests.
    """

    def __init__(self, module: Any) -> None:
        self.ffi, self.lib = module.ffi, module.lib
        self.build: str = self.ffi.string(self.lib.AGENT_SDK_BUILD).decode()
        self.stand_in = bool(self.lib.AGENT_SDK_STAND_IN)
        # Everything else aborts the process before this, and it may run only once.
        self.lib.aws_nitro_enclaves_library_init(self.ffi.NULL)
        self.allocator = self.lib.aws_nitro_enclaves_get_allocator()

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function that returns AWS_OP_SUCCESS or AWS_OP_ERR.

        Raises:
            SdkCallError: it returned anything but success.
        """
        self.lib.aws_reset_error()  # or an older call's error would be taken for this one's
        if getattr(self.lib, function)(*arguments) != 0:
            raise self.error(function)

    def error(self, function: str) -> SdkCallError:
        """What has gone wrong in a function that has just failed in this thread."""
        code = self.lib.aws_last_error()
        name = self.ffi.string(self.lib.aws_error_name(code)).decode("ascii", "replace")
        return SdkCallError(function, name if code else "")

    @contextmanager
    def input(self, data: bytes) -> Iterator[Any]:
        """1..`MAX_INPUT` bytes as an ``aws_byte_buf``, which C must only read.

        Raises:
            ConfigurationError: none, or too many.
        """
        if not 0 < len(data) <= MAX_INPUT:
            raise ConfigurationError(f"{len(data)} bytes for the SDK, not 1..{MAX_INPUT}")
        with self.ffi.from_buffer(data) as held:
            yield self.ffi.new("struct aws_byte_buf *", (len(data), held, len(data)))

    @contextmanager
    def output(self) -> Iterator[Any]:
        """An ``aws_byte_buf`` for C to fill; wiped and freed at the end."""
        # Zeroed by `new`: where C fails early it cleans up buffers that it has not touched.
        buffer = self.ffi.new("struct aws_byte_buf *")
        try:
            yield buffer
        finally:
            self.lib.aws_byte_buf_clean_up_secure(buffer)

    @contextmanager
    def string(self, text: str | None) -> Iterator[Any]:
        """Text as an ``aws_string``, None as NULL; wiped and freed at the end.

        Raises:
            ConfigurationError: it holds a zero byte, or is over `MAX_INPUT`.
        """
        if text is None:
            yield self.ffi.NULL
            return
        data = text.encode()
        if b"\0" in data or len(data) > MAX_INPUT:
            raise ConfigurationError("text that C cannot hold: too long, or with a zero byte")
        made = self.lib.aws_string_new_from_array(self.allocator, data, len(data))
        if made == self.ffi.NULL:
            raise self.error("aws_string_new_from_array")
        try:
            yield made
        finally:
            self.lib.aws_string_destroy_secure(made)

    def bytes_of(self, buffer: Any) -> bytes:
        """A copy of what C wrote."""
        if not buffer.len:
            return b""  # and no pointer
        data: bytes = self.ffi.unpack(self.ffi.cast("char *", buffer.buffer), buffer.len)
        return data


def check_built() -> None:
    """Look whether the bindings are built, without loading C code into this process.

    Raises:
        SdkNotBuiltError: they are not.
    """
    if find_spec(MODULE) is None:
        raise SdkNotBuiltError("the bindings to the C SDK are not built")


_loaded: Native | None = None


def load() -> Native:
    """Load the C library into this process and initialise it, once however many threads ask.

    Raises:
        SdkNotBuiltError: the bindings were not built, or the library is not what they need.
    """
    global _loaded  # noqa: PLW0603 (the C library is as global, and may be initialised once)
    with importing:  # a fork waits for it
        if _loaded is None:
            try:
                module = import_module(MODULE)
            except ModuleNotFoundError as e:
                raise SdkNotBuiltError("the bindings to the C SDK are not built") from e
            except ImportError as e:
                raise SdkNotBuiltError(f"the bindings to the C SDK do not load: {e}") from e
            native = Native(module)
            if native.stand_in:
                raise SdkNotBuiltError("the bindings are to a stand-in for tests, not to the SDK")
            _loaded = native
        return _loaded
