"""A package index on the loopback interface, to which an upload can be rehearsed.

It takes what ``twine upload`` sends and keeps nothing: it proves that the files can be sent as they
are, that they arrive whole, and that what they say of themselves is what is to be released.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Upload", "rehearsal_index"]

_MOST_BYTES = 100 * 1024 * 1024


class Upload:
    """A file that has arrived.

    Attributes:
        fields: What was told of it: name, version, metadata.
        filename: Its name.
        content: It.
    """

    def __init__(self, fields: dict[str, str], filename: str, content: bytes) -> None:
        self.fields = fields
        self.filename = filename
        self.content = content

    def complaint(self) -> str:
        """Say what an index would not accept.

        Returns:
            The complaint; empty without one.
        """
        missing = [
            name
            for name in ("name", "version", "metadata_version", "requires_python", "description")
            if not self.fields.get(name)
        ]
        if missing:
            return f"{self.filename}: without {', '.join(missing)}"
        if self.fields.get("sha256_digest") != hashlib.sha256(self.content).hexdigest():
            return f"{self.filename}: has arrived damaged"
        return ""


@contextmanager
def rehearsal_index() -> Iterator[tuple[str, list[Upload]]]:
    """Serve an index until the end of the block.

    Yields:
        Its address for uploads, and what has arrived so far.
    """
    arrived: list[Upload] = []

    class Handler(BaseHTTPRequestHandler):
        timeout: ClassVar[float | None] = 10.0

        def do_POST(self) -> None:
            upload = self._read()
            complaint = "not an upload" if upload is None else upload.complaint()
            if upload is not None and not complaint:
                arrived.append(upload)
            answer = complaint.encode()
            self.send_response(HTTPStatus.BAD_REQUEST if complaint else HTTPStatus.OK)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _read(self) -> Upload | None:
            size = int(self.headers.get("Content-Length", "0"))
            if not 0 < size <= _MOST_BYTES:
                return None
            kind = self.headers.get("Content-Type", "").encode()
            return _parsed(b"Content-Type: " + kind + b"\r\n\r\n" + self.rfile.read(size))

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/legacy/", arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _parsed(form: bytes) -> Upload | None:
    message = BytesParser(EmailMessage, policy=HTTP).parsebytes(form)
    fields: dict[str, str] = {}
    filename, content = "", b""
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(payload, bytes):
            return None
        if name == "content":
            filename, content = part.get_filename() or "", payload
        else:
            fields[name] = payload.decode("utf-8", "replace")
    is_upload = fields.get(":action") == "file_upload" and bool(filename)
    return Upload(fields, filename, content) if is_upload else None
