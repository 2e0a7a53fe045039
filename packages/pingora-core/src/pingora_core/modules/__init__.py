"""HTTP modules: reusable filters of a service."""

from pingora_core.modules.compression import ResponseCompression, ResponseCompressionBuilder
from pingora_core.modules.forwarded import Forwarded, ForwardedBuilder, ForwardedPolicy
from pingora_core.modules.module import (
    Downstream,
    HttpModule,
    HttpModuleBuilder,
    HttpModuleCtx,
    HttpModules,
)

__all__ = [
    "Downstream",
    "Forwarded",
    "ForwardedBuilder",
    "ForwardedPolicy",
    "HttpModule",
    "HttpModuleBuilder",
    "HttpModuleCtx",
    "HttpModules",
    "ResponseCompression",
    "ResponseCompressionBuilder",
]
