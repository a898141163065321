"""An HTTP(S) server that behaves as Splunk's event collector does towards a sender."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.lab.processes import free_port
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import ensure_tls

__all__ = ["Collector"]

TOKEN = "7c0b1a52-6f1c-4a33-9a37-canary-hec-token"


class Collector:
    """Takes events at /services/collector from who has the token; may be told to answer otherwise."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self.port = free_port()
        self.token = TOKEN
        self.events: list[dict[str, Any]] = []
        self.requests = 0
        self.answer_next: list[tuple[int, dict[str, Any]]] = []  # answers given instead of taking the events
        self.hang_up_next = False  # reads and keeps the first half, then closes without an answer
        self.ca: str | None = None
        self._server: ThreadingHTTPServer | None = None
        self._context: ssl.SSLContext | None = None
        if tls:
            files = ensure_tls(folder / "tls", ["127.0.0.1", "localhost"], SystemClock())
            self.ca = files.ca.read_text()
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(files.certificate, files.key)

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self._context:
            self._server.socket = self._context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        lines = body.split("\n")
        if self.hang_up_next:
            self.hang_up_next = False
            self.events += [json.loads(line) for line in lines[: len(lines) // 2]]
            request.close_connection = True
            return
        if request.path != "/services/collector":
            self._answer(request, 404, {"text": "The requested URL was not found on this server.", "code": 404})
        elif request.headers.get("Authorization") != f"Splunk {self.token}":
            self._answer(request, 403, {"text": "Invalid token", "code": 4})
        elif self.answer_next:
            self._answer(request, *self.answer_next.pop(0))
        else:
            self.events += [json.loads(line) for line in lines]
            self._answer(request, 200, {"text": "Success", "code": 0})

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
