"""A small HTTP/1.1 server for the parent's own services: short responses, bounded clients."""

from parent.http_server.protocol import Request, Response, message
from parent.http_server.server import HttpServer, Limits

__all__ = ["HttpServer", "Limits", "Request", "Response", "message"]
