"""Requests that the server makes to itself."""

from pingora_core.protocols.http.subrequest.server import SubrequestSession

__all__ = ["SubrequestSession"]
