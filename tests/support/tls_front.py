"""TLS in front of a PostgreSQL server that has none: answers the protocol's SSLRequest and carries the rest."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import select
import socket
import ssl
import struct
import tempfile
import threading
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


def make_certificate(folder: Path, *, is_rsa: bool = False) -> tuple[Path, Path]:
    """Write a certificate of localhost that is its own CA, and its key (P-256, or RSA of 2048 bits): ``crt``, ``key``."""
    certificate, private = folder / "crt", folder / "key"
    key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - dt.timedelta(hours=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = builder.sign(key, hashes.SHA256())
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


class TlsFront:
    """Listens on loopback; use it as a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.secure = 0  # connections that went on with TLS
        self.plain = 0  # connections that went on without
        self._target = (host, port)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="pam-tls-")
        self.certificate = Path(self._folder.name) / "crt"
        self._context = self._make()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._folder.cleanup()

    def _make(self) -> ssl.SSLContext:
        _, private = make_certificate(self.certificate.parent)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, private)
        return context

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            first = client.recv(8)
            if first != _SSL_REQUEST:
                self.plain += bool(first)
                server.sendall(first)
                self._carry(client, server)
                return
            client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as secured:
                self.secure += 1
                self._carry(secured, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            buffered = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if buffered else select.select([client, server], [], [])[0]
            for side in ready:
                data = side.recv(65536)
                if not data:
                    return
                (server if side is client else client).sendall(data)
