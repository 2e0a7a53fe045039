"""HTTP modules: reusable filters of a service."""

from pingora_core.modules.client_cert import (
    ClientCert,
    ClientCertBuilder,
    forward_client_certificate,
)
from pingora_core.modules.compression import ResponseCompression, ResponseCompressionBuilder
from pingora_core.modules.forwarded import Forwarded, ForwardedBuilder, ForwardedPolicy
from pingora_core.modules.grpc_web import GrpcWebBridge, GrpcWebBridgeBuilder
from pingora_core.modules.module import (
    Downstream,
    HttpModule,
    HttpModuleBuilder,
    HttpModuleCtx,
    HttpModules,
)

__all__ = [
    "ClientCert",
    "ClientCertBuilder",
    "Downstream",
    "Forwarded",
    "ForwardedBuilder",
    "ForwardedPolicy",
    "GrpcWebBridge",
    "GrpcWebBridgeBuilder",
    "HttpModule",
    "HttpModuleBuilder",
    "HttpModuleCtx",
    "HttpModules",
    "ResponseCompression",
    "ResponseCompressionBuilder",
    "forward_client_certificate",
]
