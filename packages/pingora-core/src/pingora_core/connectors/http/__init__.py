"""HTTP sessions on top of upstream connections."""

from pingora_core.connectors.http.connector import Connector

__all__ = ["Connector"]
