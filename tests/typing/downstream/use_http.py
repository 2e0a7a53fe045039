"""A program that needs pingora-http: it changes heads and writes them out."""

from __future__ import annotations

from pingora_http import RequestHeader, ResponseHeader, Version


def redirected(request: RequestHeader, host: str) -> ResponseHeader:
    """Send a client to the same path elsewhere."""
    response = ResponseHeader(308, headers=[("Location", f"https://{host}{request.path}")])
    response.set_content_length(0)
    return response


def main() -> None:
    """Redirect one request."""
    request = RequestHeader("GET", "/a?b=c", headers=[("Host", "old.test")])
    request.insert_header("Host", "new.test")
    assert request.to_wire() == b"GET /a?b=c HTTP/1.1\r\nHost: new.test\r\n\r\n"
    query: str | None = request.query
    assert query == "b=c"

    response = redirected(request, "new.test")

    location: str | None = response.get("location")
    assert location == "https://new.test/a"
    assert response.version is Version.HTTP_11
    assert response.status == 308


if __name__ == "__main__":
    main()
