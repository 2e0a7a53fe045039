"""A real gRPC server with grpcio's own health service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tests.support import grpc_server  # noqa: F401 - configures grpcio, which comes after it

import grpc  # isort: skip
import grpc.aio  # isort: skip
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # isort: skip

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate

__all__ = ["HealthServer"]


class HealthServer:
    """A server on a free port, as an async context manager.

    Args:
        certificate: For TLS; None for none.
        has_service: Whether it has the health service.

    Attributes:
        address: Where it listens.
        service: The health service.
    """

    def __init__(
        self, certificate: IssuedCertificate | None = None, *, has_service: bool = True
    ) -> None:
        self._certificate = certificate
        self._has_service = has_service
        self._server: grpc.aio.Server | None = None
        self.address = ""
        self.service = health.aio.HealthServicer()

    async def __aenter__(self) -> Self:
        self._server = server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        if self._has_service:
            health_pb2_grpc.add_HealthServicer_to_server(self.service, server)
        if self._certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (self._certificate.key_pem, self._certificate.chain_pem)
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def set(self, service: str, status: str) -> None:
        """Say how a service is.

        Args:
            service: Its name; empty for the server.
            status: The name of the status.
        """
        number = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        await self.service.set(service, number)
