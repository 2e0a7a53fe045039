"""HTTP/2 (RFC 9113): one connection carries many streams, each of them one exchange."""
