from __future__ import annotations

import pytest

from pingora_core.conf import ServerConf
from pingora_core.connectors import ConnectorOptions
from pingora_core.protocols.address import InetAddress

V4 = InetAddress("127.0.0.2", 0)
V6 = InetAddress("::1", 0)


def test_the_defaults() -> None:
    """System authorities, 128 idle connections, any source address."""
    options = ConnectorOptions()

    assert (options.ca_file, options.cert_key_file, options.keepalive_pool_size) == (
        None,
        None,
        128,
    )
    assert options.choose_bind(InetAddress("192.0.2.1", 80)) is None


def test_the_source_is_of_the_family_of_the_destination() -> None:
    """Each list serves its own."""
    options = ConnectorOptions(bind_to_v4=(V4,), bind_to_v6=(V6,))
    four = options.choose_bind(InetAddress("192.0.2.1", 80))
    six = options.choose_bind(InetAddress("2001:db8::1", 80))

    assert four is not None
    assert six is not None
    assert (four.addr, six.addr) == (V4, V6)


def test_all_sources_are_used() -> None:
    """The choice is random, so that no address runs out of ports before the others."""
    sources = tuple(InetAddress(f"127.0.0.{n}", 0) for n in range(2, 5))
    options = ConnectorOptions(bind_to_v4=sources)
    chosen = {options.choose_bind(InetAddress("192.0.2.1", 80)) for _ in range(200)}

    assert {bind.addr for bind in chosen if bind is not None} == set(sources)


def test_an_address_in_the_wrong_list_is_refused() -> None:
    """It could never be used."""
    with pytest.raises(ValueError, match="other family"):
        ConnectorOptions(bind_to_v4=(V6,))
    with pytest.raises(ValueError, match="other family"):
        ConnectorOptions(bind_to_v6=(V4,))


def test_from_a_server_configuration() -> None:
    """The keys that concern upstream connections."""
    conf = ServerConf.from_yaml(
        "client_bind_to_ipv4: [127.0.0.2]\n"
        'client_bind_to_ipv6: ["::1"]\n'
        "ca_file: /etc/ca.pem\n"
        "upstream_keepalive_pool_size: 7\n"
        "upstream_debug_ssl_keylog: true\n"
    )

    assert ConnectorOptions.from_server_conf(conf) == ConnectorOptions(
        ca_file="/etc/ca.pem",
        debug_ssl_keylog=True,
        keepalive_pool_size=7,
        bind_to_v4=(V4,),
        bind_to_v6=(V6,),
    )
