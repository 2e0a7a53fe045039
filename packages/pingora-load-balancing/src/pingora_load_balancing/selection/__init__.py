"""Ways to choose among backends."""

from pingora_load_balancing.selection.interfaces import BackendSelection, SelectionBuilder
from pingora_load_balancing.selection.round_robin import RoundRobin

__all__ = ["BackendSelection", "RoundRobin", "SelectionBuilder"]
