"""A proxy for byte streams: TCP, TLS and Unix sockets, whatever is spoken on them."""

from pingora_core.apps.stream_proxy.app import StreamProxyApp
from pingora_core.apps.stream_proxy.hooks import StreamProxy
from pingora_core.apps.stream_proxy.options import StreamProxyOptions
from pingora_core.apps.stream_proxy.session import StreamEnding, StreamSession

__all__ = ["StreamEnding", "StreamProxy", "StreamProxyApp", "StreamProxyOptions", "StreamSession"]
