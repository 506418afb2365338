"""What programs in the enclave print, sent to the log sink on the parent, which is not trusted.

Nothing the parent does makes a program wait: lines go through a queue of bounded size
(`outbox`), connections are made anew by a plan (`link`), and both are pure. A thread of its own
does the sending (`sender`), another reads what the program prints (`capture`), and the process in
front of the program passes signals and its exit status on (`front`).
"""
