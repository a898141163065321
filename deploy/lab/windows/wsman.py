"""WinRM in front of an emulated machine: WS-Management over HTTP or HTTPS with Basic, NTLM and Kerberos, as pywinrm speaks it.

The acceptor of NTLM is pyspnego's, that of Kerberos MIT's. Over HTTP a message counts only when NTLM or Kerberos sealed it, unless
the machine is told otherwise; over HTTPS Kerberos must be bound to the certificate.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
import threading
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import spnego
from spnego._ntlm_raw.crypto import ntowfv1
from spnego._ntlm_raw.messages import Authenticate

from deploy.lab.windows import kerberos
from deploy.lab.windows.machine import Code, Machine, User
from deploy.lab.windows.programs import Ended, execute, is_waiting

__all__ = ["WinrmServer"]

_SHELL: Final = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
_NAMESPACES: Final = (
    'xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" '
    f'xmlns:rsp="{_SHELL}" xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"'
)
_NO_SHELL: Final = 2150858843
_TIMED_OUT: Final = 2150858793
_NOT_SUPPORTED: Final = 2150858752
_SEALED: Final = "application/HTTP-SPNEGO-session-encrypted"
_SEALED_BY_KERBEROS: Final = "application/HTTP-Kerberos-session-encrypted"  # where the login was by that scheme
_NTLM_SIGNATURE: Final = 16
_ntlm_lock = threading.Lock()  # the acceptor finds its accounts by an environment variable, one for the whole process


@dataclass
class _Command:
    line: str
    stdin: bytearray = field(default_factory=bytearray)
    is_ended: bool = False
    done: Ended | None = None


@dataclass
class _Shell:
    owner: str
    commands: dict[str, _Command] = field(default_factory=dict)


class _Fault(Exception):
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


class WinrmServer(ThreadingHTTPServer):
    """One listener of a machine."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, machine: Machine, folder: Path, *, certificate: tuple[Path, Path] | None = None,
        basic: bool = True, unencrypted: bool = False, port: int = 0, service: kerberos.Acceptor | None = None,
    ) -> None:  # fmt: skip
        """Listen on loopback.

        Args:
            machine: what answers.
            folder: private; the acceptor's accounts are kept there.
            certificate: certificate and key, for HTTPS; None: plain HTTP.
            basic: take Basic authentication (a real machine does not, by default).
            unencrypted: take messages in the clear over HTTP.
            port: 0 for a free one.
            service: of a domain, for Kerberos; None: the machine takes none.
        """
        super().__init__(("127.0.0.1", port), _Handler)
        self.machine = machine
        self.basic = basic
        self.unencrypted = unencrypted or certificate is not None
        self.schemes = ["Negotiate"] if service is None else ["Negotiate", "Kerberos"]
        self.service = service
        self.certificate = kerberos.binding_of(certificate[0]) if certificate is not None else None
        self.logins: list[tuple[str, str]] = []  # how, and who
        self.seals = True  # False: it answers in the clear, as somebody on the way would
        self.shells: dict[str, _Shell] = {}
        self.accounts = folder / f"ntlm.{self.server_address[1]}"
        self.requests: list[str] = []  # what came in the clear, for tests that look for secrets
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # The handshake happens in the connection's own thread: an idle client must not hold up the others.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke."""

    def acceptor(self, step: Any, name: str = "") -> bytes | None:
        """Make one step of the acceptor.

        Args:
            step: it.
            name: whom the client says it is, once it has said so; the acceptor is told that account's hash.
        """
        with self.machine.lock:
            user = self.machine.find(name)
        row = f"{name}:1:{'0' * 32}:{ntowfv1(user.password).hex().upper()}:[U]:LCT-0" if user else ""
        with _ntlm_lock:
            self.accounts.write_text(row)
            self.accounts.chmod(0o600)
            before = os.environ.get("NTLM_USER_FILE")
            os.environ["NTLM_USER_FILE"] = str(self.accounts)
            try:
                return step()  # type: ignore[no-any-return]
            finally:
                self.accounts.unlink()
                del os.environ["NTLM_USER_FILE"]
                if before is not None:
                    os.environ["NTLM_USER_FILE"] = before


class _Handler(BaseHTTPRequestHandler):
    """One connection; NTLM belongs to it, Basic to each request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: a client's delayed acknowledgement would hold up the second
    disable_nagle_algorithm = True
    server: WinrmServer
    timeout = 60

    def setup(self) -> None:
        super().setup()
        self._context: Any = None
        self._user: User | None = None
        self._is_sealed = False
        self._seal = _SEALED
        self._proof: list[tuple[str, str]] = []  # that the machine is itself, for the answer to come

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0].rstrip("/") != "/wsman":
            self._reply(404)
            return
        user = self._authenticate()
        if user is None:
            return
        if not data:
            self._reply(200)
            return
        if not (user.admin or user.remote):
            self._deny()  # as to a wrong password
            return
        self._is_sealed = self._seal in (self.headers.get("Content-Type") or "")
        if self._is_sealed and self._context is not None:
            try:
                data = self._unsealed(data)
            except (spnego.exceptions.SpnegoError, kerberos.Refused, IndexError):  # sealed for an earlier login
                self._is_sealed = False
                self._reply(400)
                return
        elif not self.server.unencrypted:
            self._reply(500, b"")  # AllowUnencrypted is off
            return
        else:
            self.server.requests.append(data.decode(errors="replace"))
        self._answer(user, data)

    def _answer(self, user: User, data: bytes) -> None:
        try:
            root = ET.fromstring(data)  # noqa: S314 - our own client in a test
            parts: dict[str, ET.Element] = {}
            for element in root.iter():
                parts.setdefault(_local(element), element)
            action = parts["Action"].text or ""
            body = self._operate(user, root, parts, action.rsplit("/", 1)[-1])
        except _Fault as fault:
            self._reply(500, _fault(fault.code, str(fault), self.server.machine.name))
            return
        related = escape(parts["MessageID"].text or "")
        head = f"<a:Action>{escape(action)}Response</a:Action><a:MessageID>uuid:{uuid.uuid4()}</a:MessageID>"
        text = f"{head}<a:RelatesTo>{related}</a:RelatesTo>"
        envelope = f"<s:Envelope {_NAMESPACES}><s:Header>{text}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
        self._reply(200, envelope.encode())

    def _operate(self, user: User, root: ET.Element, parts: dict[str, ET.Element], name: str) -> str:
        shells = self.server.shells
        if name == "Create":
            if not user.admin:  # the shell of cmd is for administrators, whatever group an account is in
                raise _Fault(Code.ACCESS_DENIED, "Access is denied. ")
            shell_id = str(uuid.uuid4()).upper()
            shells[shell_id] = _Shell(user.login)
            selector = f'<w:SelectorSet><w:Selector Name="ShellId">{shell_id}</w:Selector></w:SelectorSet>'
            uri = f"<w:ResourceURI>{_SHELL}/cmd</w:ResourceURI>"
            reference = f"<a:ReferenceParameters>{uri}{selector}</a:ReferenceParameters>"
            return f"<x:ResourceCreated><a:Address>http://windows-host/wsman</a:Address>{reference}</x:ResourceCreated>"
        shell_id = next((each.text or "" for each in root.iter() if each.get("Name") == "ShellId"), "")
        shell = shells.get(shell_id)
        if shell is None or shell.owner != user.login:
            raise _Fault(_NO_SHELL, f"The shell was not found on the server: {shell_id}")
        match name:
            case "Command":
                return self._command(shell, parts, root)
            case "Send":
                return self._send(user, shell, parts["Stream"])
            case "Receive":
                return self._receive(user, shell, parts["DesiredStream"].get("CommandId") or "")
            case "Signal":
                shell.commands.pop(parts["Signal"].get("CommandId") or "", None)
                return "<rsp:SignalResponse/>"
            case "Delete":
                del shells[shell_id]
                return ""
        raise _Fault(_NOT_SUPPORTED, "The action is not supported by the service.")

    @staticmethod
    def _command(shell: _Shell, parts: dict[str, ET.Element], root: ET.Element) -> str:
        words = [parts["Command"].text or "", *(each.text or "" for each in root.iter() if _local(each) == "Arguments")]
        command_id = str(uuid.uuid4()).upper()
        shell.commands[command_id] = _Command(" ".join(words))
        return f"<rsp:CommandResponse><rsp:CommandId>{command_id}</rsp:CommandId></rsp:CommandResponse>"

    def _send(self, user: User, shell: _Shell, stream: ET.Element) -> str:
        command = shell.commands.get(stream.get("CommandId") or "")
        if command is None:
            raise _Fault(_NO_SHELL, "The command was not found.")
        command.stdin += base64.b64decode(stream.text or "")
        command.is_ended = command.is_ended or (stream.get("End") or "").lower() == "true"
        if command.is_ended and command.done is None:  # it runs now, whether anybody asks for its output or not
            command.done = execute(self.server.machine, user, command.line, bytes(command.stdin))
        return "<rsp:SendResponse/>"

    def _receive(self, user: User, shell: _Shell, command_id: str) -> str:
        command = shell.commands.get(command_id)
        if command is None:
            raise _Fault(_NO_SHELL, "The command was not found.")
        if is_waiting(command.line) and not command.is_ended:
            raise _Fault(_TIMED_OUT, "The operation did not complete within the time specified in OperationTimeout.")
        if command.done is None:
            command.done = execute(self.server.machine, user, command.line, bytes(command.stdin))
        done = command.done
        streams = _stream("stdout", command_id, done.stdout) + _stream("stderr", command_id, done.stderr)
        state = f'<rsp:CommandState CommandId="{command_id}" State="{_SHELL}/CommandState/Done">'
        end = f"{state}<rsp:ExitCode>{done.exit_code}</rsp:ExitCode></rsp:CommandState>"
        return f"<rsp:ReceiveResponse>{streams}{end}</rsp:ReceiveResponse>"

    def _authenticate(self) -> User | None:
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        machine = self.server.machine
        if kind == "Basic" and self.server.basic:
            login, _, password = base64.b64decode(token).decode(errors="replace").partition(":")
            user = machine.find(login) if machine.log_on(login, password) is Code.OK else None
            self.server.logins.append(("basic", login))
            return user or self._deny()
        if kind in {"Negotiate", "NTLM", "Kerberos"}:
            octets = base64.b64decode(token)
            if octets.startswith(b"\x60") and kind in self.server.schemes:
                return self._kerberos(kind, octets)
            return self._negotiate(kind, octets)
        if not kind and self._user is not None:
            return self._user
        return self._deny()

    def _negotiate(self, kind: str, token: bytes) -> User | None:
        if not token.startswith(b"NTLMSSP\0") or "Negotiate" not in self.server.schemes:
            return self._deny()
        try:
            if token[8] == 1:
                self._user = None

                def begin() -> bytes | None:
                    options = spnego.NegotiateOptions.use_ntlm
                    self._context = spnego.server(protocol="ntlm", options=options)
                    return self._context.step(token)  # type: ignore[no-any-return]

                answer = self.server.acceptor(begin) or b""
                self._reply(401, extra=[("WWW-Authenticate", f"{kind} {base64.b64encode(answer).decode()}")])
                return None
            told = Authenticate.unpack(token)
            name = f"{told.domain_name}\\{told.user_name}" if told.domain_name else told.user_name or ""
        except Exception:  # noqa: BLE001 - whatever a token that is none makes of the acceptor
            return self._deny()
        context = self._context
        try:
            self.server.acceptor(lambda: context.step(token), name)
            right = True
        except Exception:  # noqa: BLE001 - the acceptor raises many kinds for one fact
            right = False
        self.server.logins.append(("ntlm", name))
        if self.server.machine.log_on(name, None, right=right) is Code.OK:
            self._user = self.server.machine.find(name)
        return self._user or self._deny()

    def _kerberos(self, kind: str, token: bytes) -> User | None:
        self._user, service = None, self.server.service
        if service is None:
            return self._deny()
        context = service.begin(self.server.certificate)
        try:
            proof = context.accept(token)
        except kerberos.Refused:
            return self._deny()
        self.server.logins.append(("kerberos", context.principal))
        if self.server.certificate is not None and not context.is_bound:
            return self._deny()
        name, _, realm = context.principal.rpartition("@")
        self._context, self._seal = context, _SEALED_BY_KERBEROS if kind == "Kerberos" else _SEALED
        self._proof = [("WWW-Authenticate", f"{kind} {base64.b64encode(proof).decode()}")]
        with self.server.machine.lock:
            known = realm == service.realm and self.server.machine.find(f"{self.server.machine.domain}\\{name}")
        self._user = known or None
        return self._user or self._deny()

    def _unsealed(self, data: bytes) -> bytes:
        payload = data.split(b"--Encrypted Boundary\r\n")[2].split(b"octet-stream\r\n", 1)[1]
        payload = payload.removesuffix(b"--Encrypted Boundary--\r\n")
        length = int.from_bytes(payload[:4], "little")
        text = self._context.unwrap(payload[4 : 4 + length] + payload[4 + length :])
        return text if isinstance(text, bytes) else text.data  # type: ignore[no-any-return]

    def _sealed(self, body: bytes) -> bytes:
        if isinstance(self._context, kerberos.Context):
            signature, text = self._context.wrap(body)
        else:
            whole = self._context.wrap(body, encrypt=True).data
            signature, text = whole[:_NTLM_SIGNATURE], whole[_NTLM_SIGNATURE:]
        begin = f"--Encrypted Boundary\r\n\tContent-Type: {self._seal}\r\n"
        original = f"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={len(body)}\r\n"
        middle = "--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n"
        size = len(signature).to_bytes(4, "little")
        return (begin + original + middle).encode() + size + signature + text + b"--Encrypted Boundary--\r\n"

    def _deny(self) -> None:
        offers = [("WWW-Authenticate", scheme) for scheme in self.server.schemes]
        if self.server.basic:
            offers.append(("WWW-Authenticate", 'Basic realm="WSMAN"'))
        self._reply(401, extra=offers)

    def _reply(self, status: int, body: bytes = b"", extra: Any = ()) -> None:
        kind = "application/soap+xml;charset=UTF-8"
        if body and self._is_sealed and self._context is not None and self.server.seals:
            body = self._sealed(body)
            kind = f'multipart/encrypted;protocol="{self._seal}";boundary="Encrypted Boundary"'
        self.send_response(status)
        self.send_header("Server", "Microsoft-HTTPAPI/2.0")
        if body:
            self.send_header("Content-Type", kind)
        proof, self._proof = self._proof, []
        for name, value in dict.fromkeys([*proof, *extra]):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Leave the software to the header of ours."""
        return "Microsoft-HTTPAPI/2.0"


def _local(element: ET.Element) -> str:
    return re.sub(r"^\{.*\}", "", element.tag)


def _stream(name: str, command_id: str, text: str) -> str:
    begin = f'<rsp:Stream Name="{name}" CommandId="{command_id}"'
    encoded = base64.b64encode(text.encode()).decode()
    return f'{begin}>{encoded}</rsp:Stream>{begin} End="true"/>' if text else f'{begin} End="true"/>'


def _fault(code: int, text: str, name: str) -> bytes:
    reason = escape(text)
    message = f"<f:Message>{reason}</f:Message>"
    subcode = "<s:Subcode><s:Value>w:AccessDenied</s:Value></s:Subcode>" if code == Code.ACCESS_DENIED else ""
    return (
        f"<s:Envelope {_NAMESPACES}><s:Header><a:Action>http://schemas.dmtf.org/wbem/wsman/1/wsman/fault</a:Action></s:Header>"
        f"<s:Body><s:Fault><s:Code><s:Value>s:Sender</s:Value>{subcode}</s:Code><s:Reason>"
        f'<s:Text xml:lang="en-US">{reason}</s:Text></s:Reason><s:Detail><f:WSManFault Code="{int(code)}" Machine="{name}">'
        f"{message}</f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>"
    ).encode()
