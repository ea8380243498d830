"""A small index of packages, file server and proxy on this machine, which can be told to misbehave."""

import contextlib
import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WHEEL = "small_model-1.0-py3-none-any.whl"
REQUIREMENT = "small-model==1.0"


def small_wheel() -> bytes:
    """A wheel with a model of 200 kB in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("small_model/weights.bin", bytes(range(256)) * 800)
    return buffer.getvalue()


def silent_address() -> str:
    """An address of this machine at which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@dataclass
class StandIn:
    """What is served, what went wrong on purpose, and what was asked."""

    data: bytes = field(default_factory=small_wheel)
    wheel: str = WHEEL
    breaks: list[int] = field(default_factory=list)  # after how many bytes the next answers break off
    ranges: bool = True  # whether it can send a part of a file
    password: str = ""  # that it wants as a proxy
    asked: list[str | None] = field(default_factory=list)  # the Range of each request for the file
    authorized: list[str | None] = field(default_factory=list)
    address: str = ""

    @property
    def file(self) -> str:
        return f"{self.address}/files/{self.wheel}"

    @property
    def metadata(self) -> bytes:
        name, version, *_ = self.wheel.split("-")
        return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@contextlib.contextmanager
def serve(state: StandIn) -> Iterator[StandIn]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.authorized.append(self.headers.get("Proxy-Authorization"))
            if state.password and self.headers.get("Proxy-Authorization") is None:
                return self.send(407, b"")
            if self.path.endswith(".metadata"):
                return self.send(200, state.metadata)
            if self.path.endswith(".whl"):
                return self.send_file()
            known = hashlib.sha256(state.metadata).hexdigest()
            hashes = " ".join(f'data-{name}-metadata="sha256={known}"' for name in ("core", "dist-info"))
            link = f'<a href="/files/{state.wheel}#sha256={state.digest}" {hashes}>{state.wheel}</a>'
            return self.send(200, f"<!DOCTYPE html><html><body>{link}</body></html>".encode())

        do_CONNECT = do_GET

        def send_file(self):
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            self.send(206 if start else 200, state.data[start:], state.breaks.pop(0) if state.breaks else None)

        def send(self, status: int, body: bytes, breaks: int | None = None):
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:breaks])
            self.close_connection = True

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
