"""One part of the log made to say more: docs/how-to/debugging.md."""

from __future__ import annotations

import logging


def talk() -> None:
    """Let the log say of each response how it is compressed."""
    # --8<-- [start:level]
    logging.getLogger("pingora_core.protocols.http.compression").setLevel(logging.DEBUG)
    # --8<-- [end:level]
