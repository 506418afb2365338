"""A local KMS endpoint: every AWS SDK in the enclave gets attested KMS calls, unmodified.

The endpoint, from the inside outwards: `protocol` knows which call a request is and how KMS words a
response, `outcomes` what each error becomes, `http_reader` parses requests, `calls` makes the
calls, `connection` is one client, `http_server` all of them, `server` has the paths, `endpoint`
puts these together.

The process around it: `options` has the options of all parts, `command` opens what they need, in
order, `service` runs the parts beside the `program` until `stop`. A part is anything that is
drained and closed: the endpoint, attested TLS, `control`, `workers`.
"""
