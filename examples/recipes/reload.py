"""Taking on a new configuration: the snippets of docs/how-to/reload.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pingora_core import HttpServer, Server, ServerConf, Service, TlsSettings
from pingora_core.listeners import Listeners


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may have.

    Attributes:
        requests: In a second.
    """

    requests: int = 100


@dataclass(frozen=True, kw_only=True)
class Site:
    """The section ``site`` of the file.

    Attributes:
        limits: What one client may have.
        addresses: Where to listen.
        tls: Where to listen with TLS.
        certificate: PEM file with the chain.
        key: PEM file with its key.
    """

    limits: Limits = field(default_factory=Limits)
    addresses: tuple[str, ...] = ()
    tls: str = "0.0.0.0:443"
    certificate: str = "chain.pem"
    key: str = "key.pem"


class HasLimits(Protocol):
    """What has limits that may be replaced."""

    limits: Limits


def settings_of(site: Site) -> TlsSettings:
    """Make the TLS settings of a site."""
    return TlsSettings.intermediate(site.certificate, site.key)


def take_limits(server: Server, proxy: HasLimits) -> None:
    """Have a proxy take new limits over."""

    # --8<-- [start:settings]
    async def reload(conf: ServerConf) -> None:
        site = conf.section("site", Site)  # an Error here refuses the new configuration
        proxy.limits = site.limits

    server.on_reload(reload)
    # --8<-- [end:settings]


def take_listeners(server: Server, service: Service[HttpServer]) -> None:
    """Have a service listen where the file says."""

    # --8<-- [start:listeners]
    async def reload(conf: ServerConf) -> None:
        site = conf.section("site", Site)
        listeners = Listeners()
        for address in site.addresses:
            listeners.add_tcp(address)
        listeners.add_tls_with_settings(site.tls, None, settings_of(site))
        await service.update_listeners(listeners)

    # --8<-- [end:listeners]
    server.on_reload(reload)
