"""A local KMS endpoint: every AWS SDK in the enclave gets attested KMS calls, unmodified.

From the middle outwards: `protocol` knows what a request asks for and how KMS words an answer,
`http` reads requests out of bytes, `calls` makes the calls, `connection` is one client, `server`
all of them, `service` the process, `command` its command line.
"""
