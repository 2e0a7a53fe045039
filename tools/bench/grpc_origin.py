"""A gRPC server that answers each message with itself.

Run with the port to listen on.
"""

from __future__ import annotations

import asyncio
import sys

import grpc


async def _echo(message: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return message


async def _main(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 1000)])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Echo", {"Unary": handler}),)
    )
    if not server.add_insecure_port(f"127.0.0.1:{port}"):
        sys.exit(f"cannot listen on {port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
