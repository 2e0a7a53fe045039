"""One TLS port, many certificates: each name gets its own, and they may change at any time.

Put pairs of files into a directory, ``NAME.crt`` with the chain and ``NAME.key``; one that is called
``default`` is for clients that ask for an unknown name. Certificates are served for the names in
them. New pairs, renewed ones and removed ones are noticed within seconds, without a restart. Run it
and try::

    python examples/sni_certs.py --certs certs/
    curl --connect-to ::127.0.0.1:6443 https://a.example/
    cp renewed.crt certs/a.crt && cp renewed.key certs/a.key
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, Service, TlsSettings
from pingora_core.listeners import CertificateDirectory, TlsAccept
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_core.protocols.tls import TlsStream


class Tenants(TlsAccept):
    """Finds out who is asked for, once for all requests of a connection."""

    async def handshake_complete_callback(self, stream: TlsStream) -> str:
        tls = stream.digest.ssl_digest
        name = None if tls is None else tls.sni
        return f"the tenant {name}" if name else "nobody in particular"


class Greeter(ServeHttp):
    """Tells clients what was agreed on."""

    async def response(self, session: ServerSession) -> Response:
        tls = session.digest.ssl_digest
        if tls is None:
            return Response(500, b"this is no TLS connection\n")
        text = f"Here is {tls.extension}, by {tls.version} and {tls.group}. You are {tls.ja4}.\n"
        return Response(200, text.encode(), [("Content-Type", "text/plain; charset=utf-8")])


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Serves each name with its own certificate.")
    parser.add_argument("--listen", default="127.0.0.1:6443", metavar="ADDRESS")
    parser.add_argument("--certs", default="certs", metavar="DIRECTORY")
    parser.add_argument("--interval", type=float, default=10.0, metavar="SECONDS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        settings = TlsSettings(
            certificates=CertificateDirectory(args.certs),
            callbacks=Tenants(),
            reload_interval=args.interval,
        )
    except Error as error:
        parser.error(str(error))
    settings.enable_h2()

    server = Server(Opt.from_namespace(args))
    service = Service("greeter", HttpServer(Greeter()))
    service.add_tls_with_settings(args.listen, None, settings)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
