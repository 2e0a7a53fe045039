"""HTTP/1: heads, framing, bodies, and the sessions of both sides."""
