"""Ways to choose among backends.

Each is a class that is built with a set of backends. Where one has options, a load balancer is given
``functools.partial(TheSelection, option=value)``.
"""

from pingora_load_balancing.selection.bounded_load import BoundedLoad
from pingora_load_balancing.selection.consistent import KetamaHashing
from pingora_load_balancing.selection.in_order import InOrder
from pingora_load_balancing.selection.interfaces import (
    BackendSelection,
    CostlySelection,
    SelectionBuilder,
    prepared,
)
from pingora_load_balancing.selection.maglev import MaglevHashing
from pingora_load_balancing.selection.priority import PriorityGroups, ZonePreference
from pingora_load_balancing.selection.round_robin import RoundRobin
from pingora_load_balancing.selection.slow_start import SlowStart
from pingora_load_balancing.selection.sticky import Sticky, StickyCookie, sticky_token
from pingora_load_balancing.selection.two_choices import LeastLatency, LeastRequest
from pingora_load_balancing.selection.weighted import FNVHash, OriginalRoundRobin, Random

__all__ = [
    "BackendSelection",
    "BoundedLoad",
    "CostlySelection",
    "FNVHash",
    "InOrder",
    "KetamaHashing",
    "LeastLatency",
    "LeastRequest",
    "MaglevHashing",
    "OriginalRoundRobin",
    "PriorityGroups",
    "Random",
    "RoundRobin",
    "SelectionBuilder",
    "SlowStart",
    "Sticky",
    "StickyCookie",
    "ZonePreference",
    "prepared",
    "sticky_token",
]
