"""An emulated Windows machine: WinRM over HTTP and HTTPS, and SSH, in front of one state. It is no Windows."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.lab.processes import new_password, write_private
from deploy.lab.windows import services  # noqa: F401 - what it knows to do with services
from deploy.lab.windows.kerberos import Acceptor
from deploy.lab.windows.machine import Component, Machine, Policy, Pool, Refusal, Service, Task, User
from deploy.lab.windows.openssh import WindowsSshServer
from deploy.lab.windows.wsman import WinrmServer

__all__ = [
    "Acceptor",
    "Component",
    "Machine",
    "Policy",
    "Pool",
    "Refusal",
    "Service",
    "Task",
    "User",
    "WindowsServer",
    "start",
]

ADMIN = "Administrator"


@dataclass(frozen=True, kw_only=True)
class WindowsServer:
    """A running emulated machine; its servers are threads of the process that started it."""

    host: str
    port: int  # WinRM over HTTP
    secure_port: int  # WinRM over HTTPS
    ssh_port: int
    host_key: str  # of SSH, "type base64"
    ca: Path  # the certificate of HTTPS, which signed itself
    admin_login: str
    admin_password: str = field(repr=False)
    machine: Machine
    listeners: tuple[WinrmServer, WinrmServer, WindowsSshServer] = field(repr=False)

    def stop(self) -> None:
        """Stop the servers."""
        for listener in self.listeners:
            listener.stop()


def start(
    folder: Path, machine: Machine | None = None, *, basic: bool = True, service: Acceptor | None = None
) -> WindowsServer:
    """Start an emulated machine with the account ``Administrator``.

    Args:
        folder: private, existing or new.
        machine: the state; a new server in a workgroup when absent.
        basic: WinRM takes Basic authentication (over HTTP it never takes a message that nobody sealed).
        service: its service in a domain, whose accounts then log in by Kerberos.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    machine = machine or Machine()
    password = f"{new_password()}-aA1"
    admin = machine.users.get(ADMIN.lower()) or machine.add_user(ADMIN, password, admin=True, never_expires=True)
    certificate = _certificate(folder)
    plain = WinrmServer(machine, folder, basic=basic, service=service)
    secure = WinrmServer(machine, folder, basic=basic, certificate=certificate, service=service)
    shell = WindowsSshServer(machine)
    return WindowsServer(
        host="127.0.0.1", port=plain.port, secure_port=secure.port, ssh_port=shell.port, host_key=shell.host_key,
        ca=certificate[0], admin_login=admin.login, admin_password=admin.password, machine=machine,
        listeners=(plain, secure, shell),
    )  # fmt: skip


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for loopback that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "windows.crt", folder / "windows.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    write_private(paths[1], pem)
    return paths
