"""The server's side of a TLS handshake, from the first byte of a connection.

Theory of operation. The ClientHello is read, and put back, before OpenSSL sees it. So the
certificate can be chosen with all the time it takes, and a client that is to be refused gets its
alert, or whoever speaks plain HTTP its 400, without a TLS connection being made at all. One
deadline covers everything. Whoever is refused is given the time to read why: the connection is
ended in order before the error goes up and the caller drops it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from pingora_core.listeners.tls._openssl import verify_failure
from pingora_core.listeners.tls.callbacks import PendingHandshake, TlsAccept, TlsAlert
from pingora_core.listeners.tls.reload import keep_fresh, reload_now
from pingora_core.listeners.tls.validation import make_contexts
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.protocols.tls.client_hello import (
    fatal_alert,
    looks_like_http,
    parse_client_hello,
)
from pingora_core.protocols.tls.hello_reader import read_client_hello
from pingora_core.protocols.tls.ja4 import ja4
from pingora_core.protocols.tls.stream import TlsStream
from pingora_core.protocols.tls.verify import normalize_host_name
from pingora_core.runtime import timers
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.listeners.tls.certificates import ServerCertificate
    from pingora_core.listeners.tls.settings import TlsSettings
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.certificate import CertKey
    from pingora_core.protocols.tls.client_hello import ClientHello

__all__ = ["TlsAcceptor"]

_HANDSHAKE_RECORD: Final = 22
_BODY: Final = b"The plain HTTP request was sent to HTTPS port\n"
_PLAIN_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"%b"
) % (len(_BODY), _BODY)


class TlsAcceptor:
    """Does the handshakes of a listener.

    Args:
        settings: Of the listener; certificates may be changed later, everything else not.

    Attributes:
        handshakes: Handshakes that were completed so far, by the version of TLS.
        resumed: How many of these have resumed a session.
        failures: Handshakes that were not.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` naming everything that is wrong with the settings.
    """

    __slots__ = (
        "_contexts",
        "_decides",
        "_looks_back",
        "_settings",
        "failures",
        "handshakes",
        "resumed",
    )

    def __init__(self, settings: TlsSettings) -> None:
        self._contexts = make_contexts(settings)
        self._settings = settings
        self.handshakes: dict[str, int] = {}
        self.resumed: int = 0
        self.failures: int = 0
        # Once and not for each connection: whether there is anything to await.
        kind = TlsAccept if settings.callbacks is None else type(settings.callbacks)
        self._decides = kind.certificate_callback is not TlsAccept.certificate_callback
        self._looks_back = (
            kind.handshake_complete_callback is not TlsAccept.handshake_complete_callback
        )

    @property
    def settings(self) -> TlsSettings:
        """The settings it was made with."""
        return self._settings

    # ---------------------------------------------------------------- renewal

    async def run(self) -> None:
        """Take over files that change, until cancelled; the listener calls this."""
        interval = self._settings.reload_interval
        if interval is not None:
            await keep_fresh(lambda: self._settings.watched, interval)

    async def reload(self) -> list[Error]:
        """Read all files again, now.

        Returns:
            Why what could not be used was refused; what it would have replaced is still in use.
        """
        return await reload_now(self._settings.watched)

    # -------------------------------------------------------------- handshake

    async def accept(self, stream: Stream, /) -> TlsStream:
        """Do a handshake.

        Args:
            stream: The accepted connection, of which nothing has been read.

        Returns:
            The encrypted stream, which owns the other one.

        Raises:
            Error: From downstream: ``TLS_HANDSHAKE_TIMEDOUT``, ``HANDSHAKE_ERROR`` for something
                else than TLS, ``TLS_HANDSHAKE_FAILURE`` for a refusal by either side,
                ``INVALID_CERT`` for a client certificate that is not good, or what ended the
                connection. ``HANDSHAKE_ERROR`` from inside if a callback failed.
        """
        limit = self._settings.handshake_timeout
        try:
            tls = await timers.timeout(limit, self._accept(stream))
        except Error:
            self.failures += 1
            raise
        except TimeoutError as error:
            self.failures += 1
            msg = f"no TLS connection within {limit:g} s"
            late = Error.down(ErrorType.TLS_HANDSHAKE_TIMEDOUT, msg, cause=error)
            raise late from error
        digest = stream.digest.ssl_digest
        assert digest is not None
        self.handshakes[digest.version] = self.handshakes.get(digest.version, 0) + 1
        self.resumed += digest.resumed
        return tls

    async def _accept(self, stream: Stream) -> TlsStream:
        settings = self._settings
        pending = PendingHandshake(stream.digest, settings.alpn, settings.client_auth)
        certificates = settings.certificates
        certificate: ServerCertificate | CertKey
        hello: ClientHello | None = None
        start = b""
        if not self._decides and pending.alpn is not ALPN.H2 and not certificates.is_choosing:
            # Nothing depends on what the client wants: no need to read it twice.
            start = await _look_at_hello(stream)
        if start and certificates.default is not None:
            certificate = certificates.default
        else:
            hello = await _read_hello(stream)
            certificate = await self._choose(stream, hello, pending)
        tls = await self._shake_hands(stream, certificate, pending)
        digest = stream.digest.ssl_digest
        assert digest is not None
        if hello is not None:
            digest.sni = hello.server_name
            if settings.ja4:
                digest.ja4 = ja4(hello)
        else:
            digest.sni = _normalize(digest.sni)
            if settings.ja4:
                digest.ja4 = partial(_fingerprint, start)
        if self._looks_back:
            digest.extension = await self._complete(tls)
        return tls

    async def _shake_hands(
        self, stream: Stream, certificate: ServerCertificate | CertKey, pending: PendingHandshake
    ) -> TlsStream:
        try:
            connection = self._contexts.connection(certificate, pending.alpn, pending.client_auth)
        except Error:
            # A certificate of the callback, or one renewed under stricter settings than usual.
            await _say(stream, TlsAlert.INTERNAL_ERROR)
            raise
        tls = TlsStream(stream, connection)
        try:
            await tls.handshake()
        except Error as error:
            await _finish(stream)
            reason = verify_failure(connection)
            context = f"client certificate: {reason}" if reason else ""
            raise Error.down(error.etype, context, cause=error) from error
        return tls

    # -------------------------------------------------------------- callbacks

    async def _choose(
        self, stream: Stream, hello: ClientHello, pending: PendingHandshake
    ) -> ServerCertificate | CertKey:
        """Choose a certificate.

        Args:
            stream: The connection.
            hello: What the client wants.
            pending: What else is decided.

        Returns:
            The certificate.

        Raises:
            Error: If the client was refused.
        """
        chosen = await self._ask(stream, hello, pending) if self._decides else None
        if pending.alpn is ALPN.H2 and hello.alpn_protocols and b"h2" not in hello.alpn_protocols:
            why = f"it offers {hello.alpn_protocols!r} and only HTTP/2 is spoken"
            raise await _refuse(stream, TlsAlert.NO_APPLICATION_PROTOCOL, why)
        if chosen is not None:
            return chosen
        found = self._settings.certificates.find(hello.server_name, hello)
        if found is not None:
            return found
        if hello.extension(0) is None:
            raise await _refuse(stream, TlsAlert.MISSING_EXTENSION, "it names no server")
        why = f"there is no certificate for {hello.server_name!r}"
        raise await _refuse(stream, TlsAlert.UNRECOGNIZED_NAME, why)

    async def _ask(
        self, stream: Stream, hello: ClientHello, pending: PendingHandshake
    ) -> CertKey | None:
        callbacks = self._settings.callbacks
        assert callbacks is not None
        try:
            decision = await callbacks.certificate_callback(hello, pending)
        except Error as error:
            ours = error.esource in {ErrorSource.INTERNAL, ErrorSource.UPSTREAM}
            await _say(stream, TlsAlert.INTERNAL_ERROR if ours else TlsAlert.ACCESS_DENIED)
            raise error.more_context("TLS certificate callback") from error
        except Exception as error:
            await _say(stream, TlsAlert.INTERNAL_ERROR)
            msg = "the TLS certificate callback failed"
            raise Error.internal(ErrorType.HANDSHAKE_ERROR, msg, cause=error) from error
        if isinstance(decision, TlsAlert):
            raise await _refuse(stream, decision, "the certificate callback says no")
        return decision

    async def _complete(self, tls: TlsStream) -> object | None:
        callbacks = self._settings.callbacks
        assert callbacks is not None
        try:
            return await callbacks.handshake_complete_callback(tls)
        except Exception as error:
            await _finish(tls)
            if isinstance(error, Error):
                raise error.more_context("TLS handshake callback") from error
            msg = "the TLS handshake callback failed"
            raise Error.internal(ErrorType.HANDSHAKE_ERROR, msg, cause=error) from error
        except asyncio.CancelledError:
            # Nobody else knows of the TLS stream, which holds on to the one below.
            tls.abort()
            raise


async def _look_at_hello(stream: Stream) -> bytes:
    """Wait for the first bytes of a connection.

    Returns:
        The ClientHello with its record header, if it has come in one piece and one record; empty
        if somebody has to look closer.
    """
    if not stream.buffered and not await stream.fill():
        return b""
    data = stream.take()
    stream.unread(data)
    if data[0] != _HANDSHAKE_RECORD or len(data) < 9:
        return b""
    size = 5 + int.from_bytes(data[3:5], "big")
    is_whole = data[5] == 1 and 9 + int.from_bytes(data[6:9], "big") == size <= len(data)
    return data[:size] if is_whole else b""


async def _read_hello(stream: Stream) -> ClientHello:
    try:
        return await read_client_hello(stream)
    except Error as error:
        if error.etype is ErrorType.HANDSHAKE_ERROR:
            await _answer_no_hello(stream)
        raise


def _fingerprint(start: bytes) -> str | None:
    try:
        hello = parse_client_hello(start)
    except Error:
        # OpenSSL is satisfied with less.
        return None
    return None if hello is None else ja4(hello)


def _normalize(sni: str | None) -> str | None:
    try:
        return None if sni is None else normalize_host_name(sni)
    except ValueError:
        return None


async def _answer_no_hello(stream: Stream) -> None:
    """Tell a client that does not speak TLS, or badly, in words that it may understand."""
    start = stream.take()
    answer = b""
    if looks_like_http(start):
        answer = _PLAIN_HTTP
    elif start[:1] == bytes((_HANDSHAKE_RECORD,)):
        answer = fatal_alert(TlsAlert.DECODE_ERROR)
    await _finish(stream, answer)


async def _refuse(stream: Stream, alert: TlsAlert, why: str) -> Error:
    await _say(stream, alert)
    msg = f"the client was refused with {alert.name.lower()}: {why}"
    return Error.down(ErrorType.TLS_HANDSHAKE_FAILURE, msg)


async def _say(stream: Stream, alert: TlsAlert) -> None:
    await _finish(stream, fatal_alert(alert))


async def _finish(stream: Stream, answer: bytes = b"") -> None:
    """Send the last words and end the connection without a reset that could destroy them."""
    try:
        if answer:
            stream.write(answer)
        stream.close(discard_input=True)
    except Error:
        # It is lost already.
        return
    await stream.wait_closed()
