"""A local KMS endpoint: every AWS SDK in the enclave gets attested KMS calls, unmodified.

From the inside outwards: `protocol` knows which call a request is and how KMS words a response,
`http_reader` parses requests, `calls` makes the calls, `connection` is one client, `server` all of
them, `service` the process, `command` its command line.
"""
