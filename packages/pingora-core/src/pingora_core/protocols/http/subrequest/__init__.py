"""Requests that the server makes to itself."""

from pingora_core.protocols.http.subrequest.piped import DEFAULT_PIPE_LIMIT, PipedSubrequest
from pingora_core.protocols.http.subrequest.server import SubrequestSession

__all__ = ["DEFAULT_PIPE_LIMIT", "PipedSubrequest", "SubrequestSession"]
