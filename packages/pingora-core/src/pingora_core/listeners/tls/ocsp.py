"""OCSP responses from files: proof that a certificate is not revoked, sent along with it."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.x509 import ocsp

from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls.certificate import CertKey

__all__ = ["OcspResponse", "parse_ocsp_response", "read_ocsp_response"]


@dataclass(frozen=True, slots=True)
class OcspResponse:
    """A response that may be sent along with a certificate.

    Attributes:
        der: As the responder has made it.
        expiry: Until when, seconds since the epoch; infinite if it does not say.
    """

    der: bytes
    expiry: float = math.inf

    def current(self, now: float) -> bytes:
        """Return what to send.

        Args:
            now: Seconds since the epoch.

        Returns:
            The response; empty once it is out of date, which clients would take for an attack.
        """
        return self.der if now < self.expiry else b""


def read_ocsp_response(path: Path, cert_key: CertKey) -> OcspResponse:
    """Read the OCSP response for a certificate. It blocks.

    Args:
        path: File with the response, DER.
        cert_key: The certificate.

    Returns:
        The response.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` naming the file, if it cannot be used.
    """
    try:
        der = path.read_bytes()
    except OSError as error:
        msg = f"OCSP response {path}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
    try:
        return parse_ocsp_response(der, cert_key)
    except Error as error:
        raise error.more_context(f"OCSP response {path}") from error


def parse_ocsp_response(der: bytes, cert_key: CertKey) -> OcspResponse:
    """Check that an OCSP response says that a certificate is good, now.

    Its signature is left to the clients: it may be made by a responder that is not known here.

    Args:
        der: The response.
        cert_key: The certificate.

    Returns:
        The response.

    Raises:
        Error: ``TLS_CONFIG_ERROR`` saying what is wrong.
    """
    try:
        problem, end = _judge(ocsp.load_der_ocsp_response(der), cert_key)
    except ValueError as error:
        msg = "it cannot be read"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
    if problem:
        raise Error(TLS_CONFIG_ERROR, problem, source=ErrorSource.INTERNAL)
    return OcspResponse(der) if end is None else OcspResponse(der, end.timestamp())


def _judge(response: ocsp.OCSPResponse, cert_key: CertKey) -> tuple[str, dt.datetime | None]:
    """Look for a reason not to staple a response.

    Args:
        response: The response.
        cert_key: The certificate that it should be about.

    Returns:
        The reason, empty if there is none; and the end of its time, None if it does not say.
    """
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return f"the responder has answered {response.response_status.name}", None
    # The properties of the response itself work for a single one only.
    serial = cert_key.leaf.serial_number
    single = next((one for one in response.responses if one.serial_number == serial), None)
    if single is None:
        return f"it is not about {cert_key!r}", None
    if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        return f"it says {single.certificate_status.name} of {cert_key!r}", None
    end = single.next_update_utc
    if end is not None and end < dt.datetime.now(dt.UTC):
        return f"it was good until {end:%Y-%m-%d %H:%M} UTC", None
    return "", end
