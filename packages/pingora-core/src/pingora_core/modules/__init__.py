"""HTTP modules: reusable filters of a service."""

from pingora_core.modules.chain import HttpModuleCtx, HttpModules
from pingora_core.modules.client_cert import (
    ClientCert,
    ClientCertBuilder,
    forward_client_certificate,
)
from pingora_core.modules.compression import ResponseCompression, ResponseCompressionBuilder
from pingora_core.modules.forwarded import Forwarded, ForwardedBuilder, ForwardedPolicy
from pingora_core.modules.grpc_web import GrpcWebBridge, GrpcWebBridgeBuilder
from pingora_core.modules.module import Answer, Downstream, HttpModule, HttpModuleBuilder
from pingora_core.modules.rate_limit import RateLimiter, RateLimiterBuilder, RateLimitRefusal
from pingora_core.modules.rate_limit_policy import RateLimitCounts, RateLimitPolicy
from pingora_core.modules.via import Via, ViaBuilder

__all__ = [
    "Answer",
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
    "RateLimitCounts",
    "RateLimitPolicy",
    "RateLimitRefusal",
    "RateLimiter",
    "RateLimiterBuilder",
    "ResponseCompression",
    "ResponseCompressionBuilder",
    "Via",
    "ViaBuilder",
    "forward_client_certificate",
]
