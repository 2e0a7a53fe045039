"""A connector that follows the configuration: made anew when what it was made from has changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

from pingora_core.connectors.options import ConnectorOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.conf import ServerConf

__all__ = ["Configured", "Replaceable"]


class Replaceable(Protocol):
    """A connector that another one can take the place of."""

    def retire(self) -> None:
        """Keep nothing for later from now on; what is in use goes on."""

    async def close(self) -> None:
        """Close what idles and stop what runs."""


C = TypeVar("C", bound=Replaceable)


@final
class Configured(Generic[C]):
    """The connector in use, and those before it whose connections have not all ended.

    Args:
        make: Makes a connector.
        conf: The configuration.

    Attributes:
        connector: The one in use.
    """

    def __init__(self, make: Callable[[ConnectorOptions], C], conf: ServerConf) -> None:
        self._make = make
        self._made_from = _material(conf)
        self._retired: list[C] = []
        self.connector: C = make(self._made_from[0])

    async def reload(self, conf: ServerConf) -> None:
        """Take over the settings of upstream connections, and the CA file if it was renewed.

        Connections made before serve no further request; what is in flight on them goes on.

        Args:
            conf: The new configuration.

        Raises:
            Error: If a connector cannot be made from it; then the old one stays.
        """
        material = _material(conf)
        if material == self._made_from:
            return
        connector = self._make(material[0])
        self._made_from = material
        retired, self.connector = self.connector, connector
        retired.retire()
        before, self._retired = self._retired, [retired]
        for each in before:
            await each.close()

    async def close(self) -> None:
        """Close the connector in use and those before it."""
        for each in (*self._retired, self.connector):
            await each.close()


def _material(conf: ServerConf) -> tuple[ConnectorOptions, object]:
    options = ConnectorOptions.from_server_conf(conf)
    if conf.ca_file is None:
        return options, None
    try:
        found = os.stat(conf.ca_file)  # noqa: PTH116 - of a text
    except OSError:
        return options, None
    return options, (found.st_ino, found.st_size, found.st_mtime_ns)
