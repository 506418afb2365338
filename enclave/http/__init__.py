"""A small HTTP/1.1 client: one server, few kept connections, a deadline on every wait.

Rooms, from the ground up:

    errors      what can go wrong, by name
    request     a request as bytes. No I/O.
    response    a response from bytes, however they are cut. No I/O.
    stream      bytes over a socket, plain or TLS, until a deadline
    connection  one request and its response on a stream
    pool        a bounded number of connections, first come, first served
    client      requests over a pool

Why it is here and not a library: docs/adr/0011.
"""
