"""A small web server on this machine, in place of the addresses that others publish."""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def picture() -> bytes:
    """A JPEG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


def odd_picture() -> bytes:
    """An image in a format that few programs read."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PPM")
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Serves a few files, and 404 for anything else.

    /file is sent whole or from an offset, /broken only half, /stubborn whole whatever is asked for.
    /picture.png is a JPEG, /odd a PPM, /text.jpg no image.
    """

    ranges: list[str | None]

    def do_GET(self) -> None:
        start = self.headers.get("Range")
        self.ranges.append(start)
        files = {"/picture.png": picture(), "/text.jpg": b"no image", "/odd": odd_picture()}
        files["/a%20picture%C3%A9.png"] = picture()
        files |= dict.fromkeys(("/file", "/broken", "/stubborn"), CONTENT)
        body = files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        offset = (
            int(start.removeprefix("bytes=").removesuffix("-"))
            if start and self.path != "/stubborn"
            else 0
        )
        if offset >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if offset else 200)
        self.send_header("Content-Length", str(len(body) - offset))
        self.end_headers()
        self.wfile.write(body[offset : len(body) // 2 if self.path == "/broken" else None])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the base class's
        """Say nothing."""


@contextmanager
def serving() -> Iterator[str]:
    """Yield the address of a server, which runs inside the context."""
    Server.ranges = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
