"""JA4 fingerprints: the published examples, and what each rule of the specification says."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from OpenSSL import SSL

from pingora_core.protocols.tls.client_hello import parse_client_hello
from pingora_core.protocols.tls.ja4 import is_grease, ja4, ja4_raw
from tests.support.nginx import require_program
from tests.unit.pingora_core.protocols.tls.hellos import (
    GREASE,
    alpn,
    build,
    from_openssl,
    from_program,
    from_stdlib,
    message,
    number_list,
    records,
    server_name,
)

if TYPE_CHECKING:
    from pingora_core.protocols.tls.client_hello import ClientHello

# What FoxIO's technical_details/JA4.md works through.
SPEC_CIPHERS = (
    0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9,
    0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035,
)  # fmt: skip
SPEC_EXTENSIONS = (
    0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D,
    0x0005, 0x0023, 0x0012, 0x002B, 0xFF01, 0x000B, 0x000A, 0x0015,
)  # fmt: skip
SPEC_ALGORITHMS = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)

# A captured hello of Chrome with GREASE in five places, as CyberChef's tests have it.
CHROME = bytes.fromhex(
    "1603010200010001fc0303b2c03e7ba990ef540c316a665d4d925f8e9079ac4b15687e587dc99016e75a6c20d0b0"
    "099243c9296a0c84153ea4ada7d87ad017f4211c2ea1350b0b3cc5514d5f00205a5a130113021303c02bc02fc02c"
    "c030cca9cca8c013c014009c009d002f003501000193fafa000000000024002200001f636f6e74656e742d617574"
    "6f66696c6c2e676f6f676c65617069732e636f6d0033002b00293a3a000100001d0020fb2cd8ef3d605b96ab0311"
    "9ec4f30a6e2088cb1af86c41a81feace8706068c50000d0012001004030804040105030805050108060601002300"
    "00000b00020100ff01000100000a000a00083a3a001d00170018001b000302000244690005000302683200120000"
    "002d000201010010000e000c02683208687474702f312e31000500050100000000002b0007060a0a030403030017"
    "00001a1a000100001500b8"
) + bytes(184)


def spec_extension(kind: int) -> tuple[int, bytes]:
    known = {
        0x0000: server_name(b"example.org"),
        0x000A: (10, number_list(2, 0x001D)),
        0x000D: (13, number_list(2, *SPEC_ALGORITHMS)),
        0x0010: alpn(b"h2", b"http/1.1"),
        0x002B: (43, number_list(1, 0x0304, 0x0303)),
    }
    return known.get(kind, (kind, b""))


def parsed(data: bytes) -> ClientHello:
    hello = parse_client_hello(data)
    assert hello is not None
    return hello


def made(*extensions: tuple[int, bytes], ciphers: tuple[int, ...] = (0x1301,)) -> ClientHello:
    return parsed(records(message(*extensions, ciphers=ciphers)))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


def test_example_of_the_specification() -> None:
    """The worked example has the published fingerprint, raw and hashed."""
    hello = made(*map(spec_extension, SPEC_EXTENSIONS), ciphers=SPEC_CIPHERS)

    assert ja4(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert ja4_raw(hello) == (
        "t13d1516h2_"
        "002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,cca9_"
        "0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_"
        "0403,0804,0401,0503,0805,0501,0806,0601"
    )


def test_example_without_signature_algorithms() -> None:
    """Without signature algorithms there is no underscore at the end of what is hashed.

    The specification's example of this keeps extension 000d in the list, which can only be so
    where that extension cannot be read; the digest it gives is checked as such.
    """
    kinds = [kind for kind in SPEC_EXTENSIONS if kind != 0x000D]
    hello = made(*map(spec_extension, kinds), ciphers=SPEC_CIPHERS)
    listed = "0005,000a,000b,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01"

    assert ja4(hello) == f"t13d1515h2_8daaf6152771_{digest(listed)}"
    assert digest(listed.replace("000b,", "000b,000d,")) == "6d807ffa2a79"


def test_captured_chrome() -> None:
    """A hello from the wire, GREASE and all, has the fingerprint that others compute for it."""
    hello = parsed(CHROME)

    assert hello.server_name == "content-autofill.googleapis.com"
    assert ja4(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("extensions", "ciphers", "algorithms", "fingerprint"),
    [
        (
            "0005,000a,000b,000d,0012,0017,001b,0023,002b,002d,0033,44cd,fe0d,ff01,0000,0010",
            SPEC_CIPHERS,
            SPEC_ALGORITHMS,
            "t13d1516h2_8daaf6152771_d8a2da3f94cd",
        ),
        (
            "fe0d,0010,0017,0033,44cd,ff01,000a,000d,0023,002b,000b,ca34,002d,0000,0005,001b,0012",
            SPEC_CIPHERS,
            (0x0904, 0x0905, 0x0906, *SPEC_ALGORITHMS),
            "t13d1517h2_8daaf6152771_cb7bf5808d99",
        ),
    ],
    ids=["Chrome with ECH", "Chrome with ML-DSA"],
)
def test_published_raw_forms(
    extensions: str, ciphers: tuple[int, ...], algorithms: tuple[int, ...], fingerprint: str
) -> None:
    """Raw forms that were published with their fingerprints lead to these."""
    kinds = [int(kind, 16) for kind in extensions.split(",")]
    listed = [
        (kind, number_list(2, *algorithms)) if kind == 13 else spec_extension(kind)
        for kind in kinds
    ]

    assert ja4(made(*listed, ciphers=ciphers)) == fingerprint


def test_grease_does_not_count() -> None:
    """With GREASE in every list the fingerprint is the same as without."""
    plain = made(*map(spec_extension, SPEC_EXTENSIONS), ciphers=SPEC_CIPHERS)
    greased = made(
        (0x0A0A, b""),
        *(
            {
                13: (13, number_list(2, 0xFAFA, *SPEC_ALGORITHMS)),
                43: (43, number_list(1, GREASE, 0x0304, 0x0303)),
            }.get(kind, spec_extension(kind))
            for kind in SPEC_EXTENSIONS
        ),
        (0x7A7A, b"\0"),
        ciphers=(0xEAEA, *SPEC_CIPHERS),
    )

    assert ja4(greased) == ja4(plain)


def test_grease_numbers() -> None:
    """Sixteen numbers are GREASE, and only these."""
    numbers = [number for number in range(0x10000) if is_grease(number)]

    assert numbers == [0x0A0A + 0x1010 * step for step in range(16)]


@given(st.permutations(SPEC_CIPHERS), st.permutations(SPEC_EXTENSIONS))
def test_order_does_not_matter(ciphers: list[int], extensions: list[int]) -> None:
    """A browser that shuffles ciphers and extensions keeps its fingerprint."""
    hello = made(*map(spec_extension, extensions), ciphers=tuple(ciphers))

    assert ja4(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_order_of_signature_algorithms_matters() -> None:
    """Signature algorithms are hashed in the client's order."""
    first = made((13, number_list(2, 0x0403, 0x0804)))
    second = made((13, number_list(2, 0x0804, 0x0403)))

    assert ja4_raw(first).endswith("_000d_0403,0804")
    assert ja4_raw(second).endswith("_000d_0804,0403")


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"http/1.0", "h0"),
        (b"x", "xx"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
        (b"-h2-", "2d"),
    ],
)
def test_alpn(protocol: bytes, expected: str) -> None:
    """The first protocol is named by its first and last character, or those of its hex form."""
    assert ja4(made(alpn(protocol, b"zz")))[8:10] == expected


def test_no_extensions() -> None:
    """A bare TLS 1.2 hello: no name, no protocol, and zeros for the digest of nothing."""
    hello = parsed(records(message(ciphers=(0xC02F, 0x009C), with_extensions=False)))

    assert ja4(hello) == f"t12i020000_{digest('009c,c02f')}_000000000000"


def test_name_and_protocol_are_not_hashed() -> None:
    """Only a name and a protocol: both count, and there is nothing left to hash."""
    assert ja4(parsed(build(server_name(b"a.test"), alpn(b"h2")))).startswith("t12d0202h2_")
    assert ja4(parsed(build(server_name(b"a.test"), alpn(b"h2")))).endswith("_000000000000")


def test_only_grease_ciphers() -> None:
    """An offer of nothing but GREASE is an empty list."""
    assert ja4(made(ciphers=(GREASE,))) == "t12i000000_000000000000_000000000000"


def test_address_as_name() -> None:
    """What counts is that the client sent a name, not whether it is a good one."""
    assert ja4(made(server_name(b"127.0.0.1")))[3] == "d"


@pytest.mark.parametrize(
    ("legacy", "offered", "expected"),
    [
        (0x0303, (0x0304, 0x0303), "13"),
        (0x0303, (0x0303, 0x0304), "13"),
        (0x0303, (GREASE, 0x0303), "12"),
        (0x0303, (GREASE,), "00"),
        (0x0303, (0x7F1C, 0x0304), "00"),
        (0x0303, (), "12"),
        (0x0302, (), "11"),
        (0x0301, (), "10"),
        (0x0300, (), "s3"),
        (0x0305, (), "00"),
    ],
)
def test_version(legacy: int, offered: tuple[int, ...], expected: str) -> None:
    """The highest version offered counts; without such a list the version of the hello."""
    extensions = [(43, number_list(1, *offered))] if offered else []
    hello = parsed(records(message(*extensions, version=legacy)))

    assert ja4(hello)[1:3] == expected


def test_counts_end_at_99() -> None:
    """More than 99 ciphers or extensions are written as 99."""
    extensions = [(0x2000 + number, b"") for number in range(120)]
    hello = made(*extensions, ciphers=tuple(range(0x1000, 0x1064)))

    assert ja4(hello)[4:8] == "9999"


def test_quic() -> None:
    """A hello that came over QUIC begins with another letter."""
    assert ja4(made(), "q")[0] == "q"


async def test_real_clients() -> None:
    """Each client keeps its fingerprint from one connection to the next; they differ."""
    connect = (require_program("openssl"), "s_client", "-connect", "127.0.0.1:{port}")
    fetch = (require_program("curl"), "-s", "https://127.0.0.1:{port}/")
    hellos = [
        [parsed(from_stdlib()), parsed(from_stdlib("b.test"))],
        [parsed(from_openssl()), parsed(from_openssl(b"b.test"))],
        [parsed(from_openssl(version=SSL.TLS1_2_VERSION)) for _ in range(2)],
        [parsed(await from_program(*connect, "-servername", name)) for name in ("a.b", "b.test")],
        [parsed(await from_program(*fetch)) for _ in range(2)],
    ]

    fingerprints = [{ja4(hello) for hello in pair} for pair in hellos]

    assert [len(each) for each in fingerprints] == [1] * len(fingerprints)
    assert len(set.union(*fingerprints)) == len(fingerprints)
    assert [min(each)[:4] for each in fingerprints] == ["t13d", "t13d", "t12d", "t13d", "t13i"]
