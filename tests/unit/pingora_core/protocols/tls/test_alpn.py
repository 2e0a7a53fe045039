from __future__ import annotations

import pytest

from pingora_core.protocols.tls import ALPN, CustomALPN


@pytest.mark.parametrize(
    ("alpn", "protocols", "versions"),
    [
        (ALPN.H1, (b"http/1.1",), (1, 1)),
        (ALPN.H2, (b"h2",), (2, 2)),
        (ALPN.H2H1, (b"h2", b"http/1.1"), (1, 2)),
    ],
)
def test_offers(alpn: ALPN, protocols: tuple[bytes, ...], versions: tuple[int, int]) -> None:
    """The preferred protocol comes first, and the versions say what may be spoken."""
    assert alpn.protocols == protocols
    assert (alpn.min_http_version, alpn.max_http_version) == versions


@pytest.mark.parametrize(
    ("protocol", "alpn"),
    [(b"h2", ALPN.H2), (b"http/1.1", ALPN.H1), (b"", None), (b"http/1.0", None)],
)
def test_what_was_negotiated(protocol: bytes, alpn: ALPN | None) -> None:
    """Nothing and unknown protocols are None."""
    assert ALPN.from_negotiated(protocol) is alpn


def test_a_custom_protocol_is_offered_alone() -> None:
    """It falls back to HTTP/1."""
    custom = CustomALPN(b"my/1")

    assert custom.protocols == (b"my/1",)
    assert (custom.min_http_version, custom.max_http_version) == (1, 1)
    assert custom == CustomALPN(b"my/1")
    assert hash(custom) == hash(CustomALPN(b"my/1"))


@pytest.mark.parametrize("name", [b"", b"x" * 256])
def test_a_custom_protocol_has_1_to_255_bytes(name: bytes) -> None:
    """The wire has one byte for the length."""
    with pytest.raises(ValueError, match="1 to 255"):
        CustomALPN(name)


@pytest.mark.parametrize("name", [b"h2", b"http/1.1"])
def test_http_is_no_custom_protocol(name: bytes) -> None:
    """It would be negotiated and then not be spoken."""
    with pytest.raises(ValueError, match="no custom protocol"):
        CustomALPN(name)
