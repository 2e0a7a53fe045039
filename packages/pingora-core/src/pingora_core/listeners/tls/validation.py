"""Looking for everything that is wrong with TLS settings, before a listener is made of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from OpenSSL import SSL

from pingora_core.listeners.tls.contexts import ContextFactory
from pingora_core.listeners.tls.profiles import TlsVersion
from pingora_core.protocols.tls.openssl import set_groups
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.listeners.tls.settings import TlsSettings

__all__ = ["make_contexts"]


def make_contexts(settings: TlsSettings) -> ContextFactory:
    """Check settings and get ready for handshakes with them. It blocks.

    Args:
        settings: Of the listener.

    Returns:
        What makes its connections.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` naming all problems.
    """
    _raise_any(
        [
            *_version_problems(settings),
            *_cipher_problems(settings),
            *_number_problems(settings),
            *_keylog_problems(settings.keylog_path),
        ]
    )
    contexts = ContextFactory(settings)
    problems: list[str] = []
    for certificate in settings.certificates:
        try:
            contexts.leaf(certificate, settings.alpn, settings.client_auth)
        except Error as error:
            where = ", ".join(map(str, certificate.watched)) or repr(certificate)
            problems.append(f"certificates: {where}: {error.context}")
    if not len(settings.certificates) and settings.callbacks is None:
        problems.append("certificates: none, allowed: at least one, or callbacks")
    _raise_any(problems)
    return contexts


def _raise_any(problems: list[str]) -> None:
    if problems:
        msg = f"TLS settings: {'; '.join(problems)}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL)


def _version_problems(settings: TlsSettings) -> list[str]:
    problems: list[str] = []
    if settings.min_version.number > settings.max_version.number:
        newest = settings.max_version.name
        problems.append(f"min_version: {settings.min_version.name} is newer than {newest}")
    if settings.min_version is TlsVersion.TLS_1_2 and not settings.ciphers:
        problems.append("ciphers: empty, allowed: at least one for TLS 1.2")
    if settings.max_version is TlsVersion.TLS_1_3 and not settings.ciphersuites:
        problems.append("ciphersuites: empty, allowed: at least one for TLS 1.3")
    if not settings.groups:
        problems.append("groups: empty, allowed: at least one")
    return problems


def _number_problems(settings: TlsSettings) -> list[str]:
    positive = {
        "session_timeout": settings.session_timeout,
        "ticket_key_lifetime": settings.ticket_key_lifetime,
        "handshake_timeout": settings.handshake_timeout,
        "max_contexts": settings.max_contexts,
    }
    if settings.reload_interval is not None:
        positive["reload_interval"] = settings.reload_interval
    return [
        f"{name}: got {value}, allowed: more than 0"
        for name, value in positive.items()
        if not value > 0
    ]


def _keylog_problems(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return [f"keylog: {path} cannot be written to: {error.strerror}"]
    return []


def _cipher_problems(settings: TlsSettings) -> list[str]:
    # Every one alone: in a list OpenSSL passes over what it does not know.
    scratch = SSL.Context(SSL.TLS_SERVER_METHOD)
    problems = [
        f"ciphers: OpenSSL does not know {cipher!r}"
        for cipher in settings.ciphers
        # What only changes a list is none by itself.
        if cipher[:1] not in {"!", "-", "+", "@"} and not _accepts(scratch.set_cipher_list, cipher)
    ]
    problems.extend(
        f"ciphersuites: OpenSSL does not know {suite!r}"
        for suite in settings.ciphersuites
        if not _accepts(scratch.set_tls13_ciphersuites, suite)
    )
    problems.extend(
        f"groups: OpenSSL does not know {group!r}"
        for group in settings.groups
        if not set_groups(scratch, group)
    )
    return problems


def _accepts(setter: Callable[[bytes], None], name: str) -> bool:
    try:
        setter(name.encode())
    except SSL.Error:
        return False
    return True
