"""A TLS connection that is cut off must not look like one that has ended."""

from __future__ import annotations

import ssl


def report_cut_offs(context: ssl.SSLContext) -> None:
    """Have the end of a connection without TLS's own end be an error, `ssl.SSLEOFError`.

    The parent carries the bytes, and can end any connection: it would truncate what is sent. Some
    versions of Python, Debian 12's 3.11.2 among them, have OpenSSL 3 report that as an orderly end
    (SSL_OP_IGNORE_UNEXPECTED_EOF). Without that, these raise `ssl.SSLError`: see `cut_off`.
    """
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def cut_off(error: ssl.SSLError) -> ssl.SSLError:
    """Return `ssl.SSLEOFError` for an error of a connection that was cut off, else the error."""
    if isinstance(error, ssl.SSLEOFError) or error.reason != "UNEXPECTED_EOF_WHILE_READING":
        return error
    return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
