"""Records of TLS 1.3 that no well-behaved library would send (RFC 8446 sections 5.2, 7.1, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["APPLICATION_DATA", "HANDSHAKE", "Forger", "KeyLog"]

HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23


class KeyLog:
    """Takes down the traffic secrets of a connection."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}

    def __call__(self, connection: SSL.Connection, line: bytes) -> None:
        del connection
        label, _, secret = line.decode().split()
        self._secrets[label] = bytes.fromhex(secret)

    def client(self) -> Forger:
        """Speak as the client, which must not have sent anything after its handshake."""
        return Forger(self._secrets["CLIENT_TRAFFIC_SECRET_0"])

    def server(self) -> Forger:
        """Speak as the server, whose records after its handshake must not have been delivered."""
        return Forger(self._secrets["SERVER_TRAFFIC_SECRET_0"])


class Forger:
    """One direction of a connection with TLS_AES_256_GCM_SHA384.

    Args:
        secret: The traffic secret of that direction.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._number = 0

    def record(self, content: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """Make a record.

        Args:
            content: What is in it; anything.
            kind: Its inner type.
        """
        inner = content + bytes([kind])
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        key, iv = self._expand(b"key", 32), self._expand(b"iv", 12)
        nonce = int.from_bytes(iv, "big") ^ self._number
        self._number += 1
        return header + AESGCM(key).encrypt(nonce.to_bytes(12, "big"), inner, header)

    def key_update(self, *, requested: bool) -> bytes:
        """Make a key update, and use the new keys from then on."""
        record = self.record(b"\x18\x00\x00\x01" + bytes([requested]), HANDSHAKE)
        self._secret = self._expand(b"traffic upd", 48)
        self._number = 0
        return record

    def ticket(self) -> bytes:
        """Make a session ticket."""
        body = b"\0\0\x0e\x10" + b"\0\0\0\0" + b"\x01\0" + b"\0\x10" + b"t" * 16 + b"\0\0"
        return self.record(b"\x04" + len(body).to_bytes(3, "big") + body, HANDSHAKE)

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(SHA384(), size, info).derive(self._secret)
