"""What is spoken on a connection: bytes, TLS, HTTP; and what is known about it."""
