"""Whether a server could run as it is configured."""

from pingora_core.server.checks.checks import (
    Findings,
    check_addresses,
    check_before_start,
    check_configuration,
    check_services,
)

__all__ = [
    "Findings",
    "check_addresses",
    "check_before_start",
    "check_configuration",
    "check_services",
]
