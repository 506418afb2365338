"""Sends the output of programs in the enclave to the log sink on the parent, which is not trusted.

A program never waits for the parent: lines go through a bounded queue (`outbox`), and a lost
connection is retried by a plan (`link`); both do no I/O. One thread sends (`sender`), another
reads the program's output (`capture`). The program is a child process: signals are forwarded to
it, and its exit code is ours (`child`).
"""
