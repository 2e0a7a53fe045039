"""An upgrade without a gap: the listening sockets go from a running server to its successor."""

from pingora_core.server.upgrade.transfer import UPGRADE_ERROR, Predecessor, hand_over
from pingora_core.server.upgrade.upgrade import upgrade

__all__ = ["UPGRADE_ERROR", "Predecessor", "hand_over", "upgrade"]
