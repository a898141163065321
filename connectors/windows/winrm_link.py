"""PowerShell over WinRM: which login a machine offers, Kerberos, NTLM or Basic, and commands in one shell."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
import requests.auth
import urllib3
import winrm.exceptions as driver
from urllib3.util.wait import wait_for_read
from winrm.encryption import Encryption
from winrm.protocol import Protocol as Winrm

from connectors.base import Credential, Deadline, Target
from connectors.kerberos.errors import KerberosError, NotTrustedError
from connectors.windows.errors import LoginRefused, NoAnswer
from connectors.windows.kerberos import KerberosAuth, KerberosWay, is_final
from connectors.windows.link import nothing
from connectors.windows.programs import Answer, Program, command_line, encode_input, read_answer
from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["Endpoint", "WinrmLink", "offers"]

_CONNECT_SECONDS: Final = 15.0
_WAIT_SECONDS: Final = 20  # how long one request may ask the machine to hold an answer back
_CHUNK: Final = 64 * 1024  # of standard input in one message: an envelope has at most 150 KiB
_UTF8: Final = 65001
_SECURE_PORT: Final = 5986
_PLAIN_PORT: Final = 5985
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LOGINS: Final = ("kerberos", "ntlm", "basic")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where WinRM listens and how the way there is secured."""

    url: str
    is_secure: bool
    is_loopback: bool
    verify: bool | str  # of HTTPS: False, True for the system's CAs, or the file of a CA

    @classmethod
    def of(cls, target: Target) -> Endpoint:
        """Read it from the target: HTTPS on 5986 and wherever the record demands TLS.

        Raises:
            Unsupported: an option is none of those there are.
        """
        option = target.options.get("tls_verify", "full").casefold()
        if option not in {"full", "none"}:
            raise Unsupported(f"there is no tls_verify {option!r} for WinRM", remedy="use full or none")
        is_secure = target.use_ssl or target.port == _SECURE_PORT
        port = _SECURE_PORT if is_secure and target.port == _PLAIN_PORT else target.port
        host = f"[{target.host}]" if ":" in target.host else target.host
        default = ssl.get_default_verify_paths().cafile
        return cls(
            url=f"{'https' if is_secure else 'http'}://{host}:{port}/wsman",
            is_secure=is_secure,
            is_loopback=target.host in _LOOPBACK,
            verify=(target.options.get("ssl_ca") or default or True) if option == "full" else False,
        )


def offers(endpoint: Endpoint, deadline: Deadline) -> tuple[str, frozenset[str]] | None:
    """Return the server's software and the logins it offers, in lower case; None when it is no WinRM.

    Raises:
        requests.RequestException: there was no answer.
    """
    if not endpoint.verify:  # somebody chose so; saying it at each connection helps nobody
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    with requests.Session() as session:
        session.trust_env = False
        seconds = deadline.remaining(_CONNECT_SECONDS)
        response = session.post(endpoint.url, timeout=seconds, verify=endpoint.verify, allow_redirects=False)
        names = response.raw.headers.getlist("WWW-Authenticate")
        server = response.headers.get("Server", "")
    if response.status_code != requests.codes.unauthorized or not names:
        return None
    return server, frozenset(part.split()[0].casefold() for name in names for part in name.split(",") if part.split())


class _Sealing(Encryption):
    """The driver's sealing of messages, which would take an answer in the clear as well."""

    def parse_encrypted_response(self, response: requests.Response) -> bytes:
        """Return the text that the machine sealed; nothing of an error that it did not seal.

        Raises:
            NotTrustedError: it is a good answer in the clear, which anybody on the way could have written.
        """
        if self.protocol_string.decode() in response.headers.get("Content-Type", ""):
            return super().parse_encrypted_response(response)
        if response.ok and response.content:
            raise NotTrustedError("the machine answered in the clear")
        return b""


class WinrmLink:
    """One shell of one account on one machine; opened when the first program runs."""

    host_key: str | None = None

    def __init__(self, endpoint: Endpoint, server: str, login: str, how: str | KerberosWay, shell: str | None) -> None:
        self._endpoint = endpoint
        self._login = login
        self._how = how
        self._shell = shell
        self._shell_id: str | None = None
        self._winrm: Any = None
        self.server = server

    @classmethod
    def connect(cls, target: Target, credential: Credential, deadline: Deadline) -> WinrmLink:
        """Log in with the best login that the machine offers and that is safe on this way.

        Raises:
            Unsupported: it offers none that is.
            LoginRefused: it refused the credential.
            Exception: one of ``errors.FAILURES``.
        """
        if credential.password is None:
            raise Unsupported("WinRM logs in with a password", remedy="set the password of the admin's record")
        endpoint = Endpoint.of(target)
        wanted = _wanted(target)
        told = offers(endpoint, deadline)
        if told is None:
            raise Unsupported("the machine does not answer as WinRM does", remedy="check the port of the resource")
        server, offered = told[0] or "WinRM", told[1]

        def logged_in(how: str | KerberosWay) -> WinrmLink:
            link = cls(endpoint, server, credential.login, how, target.options.get("Shell"))
            try:
                link.log_in(credential.password or SecretValue(""), deadline)
            except BaseException:
                link.close()
                raise
            return link

        way = KerberosWay.of(target, credential.login, offered)
        if way is None:
            return logged_in(_choose(endpoint, offered, wanted))
        try:
            return logged_in(way)
        except KerberosError as error:
            if way.is_demanded or is_final(error):
                raise
            try:
                return logged_in(_choose(endpoint, offered, wanted))
            except (LoginRefused, Unsupported):
                # NTLM may be closed to the account, whatever its password is: this refusal proves nothing.
                raise error from None

    def log_in(self, password: SecretValue, deadline: Deadline) -> None:
        """Log in; no shell is opened yet, which takes rights that a login does not.

        Raises:
            LoginRefused: the machine said no.
            KerberosError: there is no ticket, or the machine did not take it.
            Unsupported: the password cannot travel in this way.
        """
        way = self._how if isinstance(self._how, KerberosWay) else None
        text = "" if way else password.reveal()
        if self._how == "basic" and not (text.isascii() and self._login.isascii()):
            raise Unsupported("Basic cannot carry characters beyond ASCII", remedy="let the machine offer Negotiate")
        secure = self._endpoint.is_secure
        ticket = way.ticket(password, deadline) if way else None
        self._winrm = Winrm(
            self._endpoint.url,
            transport="plaintext" if way else self._how,  # type: ignore[arg-type]
            username=self._login,
            password=text,
            ca_trust_path=self._endpoint.verify if isinstance(self._endpoint.verify, str) else None,  # type: ignore[arg-type]
            server_cert_validation="validate" if self._endpoint.verify else "ignore",
            message_encryption="always" if self._how == "ntlm" and not secure else "never",
            read_timeout_sec=_WAIT_SECONDS + 10,
            operation_timeout_sec=_WAIT_SECONDS,
            proxy=None,
        )
        self._limit(deadline)
        transport = self._winrm.transport
        try:
            session = transport.build_session()  # sealed by NTLM, it has logged in already
            session.trust_env = False
            if way and ticket:
                session.auth = KerberosAuth(ticket, way.scheme, is_sealed=not secure)
            if transport.encryption is None:
                request = session.prepare_request(requests.Request("POST", self._endpoint.url))
                transport._send_message_request(session, request)  # noqa: SLF001 - the driver's own way to log in
        except driver.AuthenticationError:
            raise LoginRefused from None
        except driver.WinRMTransportError as error:
            if error.code == requests.codes.not_found or error.code >= 500:
                raise
        if not secure and self._how != "basic":
            transport.encryption = _Sealing(session, "kerberos" if way else "ntlm")
        if way:
            self.server += ", Kerberos"  # so that a plan shows what the login was
            if not secure and way.scheme == "Kerberos":
                transport.encryption.protocol_string = b"application/HTTP-Kerberos-session-encrypted"

    def open(self, deadline: Deadline) -> None:
        """Open the shell, which the programs then run in.

        Raises:
            winrm.exceptions.WSManFaultError: with code 5, the account may have none.
        """
        if self._shell_id is None:
            self._limit(deadline)
            self._shell_id = self._winrm.open_shell(codepage=_UTF8, noprofile=True)

    def call(
        self,
        program: Program,
        facts: Mapping[str, object],
        *secrets: SecretValue,
        deadline: Deadline,
        before: Callable[[], None] = nothing,
        renewed: SecretValue | None = None,
    ) -> Answer:
        """Run a program and return its answer; see ``Link``."""
        self.open(deadline)
        command = self._winrm.run_command(self._shell_id, command_line(program, self._shell))
        stdin = encode_input(facts, *secrets)
        before()
        for start in range(0, len(stdin), _CHUNK):
            self._limit(deadline)
            part = stdin[start : start + _CHUNK]
            self._winrm.send_command_input(self._shell_id, command, part, end=start + _CHUNK >= len(stdin))
        try:
            stdout, stderr, code = self._output(command, deadline)
        except driver.AuthenticationError:
            if renewed is None or self._how != "basic":
                raise
            self._winrm.transport.session.auth = requests.auth.HTTPBasicAuth(self._login, renewed.reveal())
            stdout, stderr, code = self._output(command, deadline)
        with contextlib.suppress(Exception):  # the answer is here; whether it is tidied away there does not matter
            self._winrm.cleanup_command(self._shell_id, command)
        answer = read_answer(stdout.decode(errors="replace"))
        if answer is None:
            raise NoAnswer(code, (stderr or stdout).decode(errors="replace"))
        return answer

    def _output(self, command: str, deadline: Deadline) -> tuple[bytes, bytes, int]:
        """Return both streams and the exit code.

        Raises:
            TimeoutError: the time limit came first.
        """
        stdout, stderr = bytearray(), bytearray()
        while not deadline.is_over:
            self._limit(deadline)
            try:
                out, err, code, is_done = self._winrm.get_command_output_raw(self._shell_id, command)
            except driver.WinRMOperationTimeoutError:
                time.sleep(0.01)
                continue
            stdout += out
            stderr += err
            if is_done:
                return bytes(stdout), bytes(stderr), code
        raise TimeoutError("the command did not end in time")

    def _limit(self, deadline: Deadline) -> None:
        """Let no request take longer than there is time."""
        seconds = deadline.remaining(_WAIT_SECONDS + 10)
        self._winrm.transport.read_timeout_sec = seconds
        self._winrm.operation_timeout_sec = max(1, min(_WAIT_SECONDS, int(seconds) - 1))

    def is_alive(self) -> bool:
        """Say whether the connection is up: NTLM's login belongs to it."""
        try:
            session = self._winrm.transport.session
            pool = session.get_adapter(self._endpoint.url).get_connection_with_tls_context(
                requests.Request("POST", self._endpoint.url).prepare(), verify=self._endpoint.verify
            )
            idle = [each for each in pool.pool.queue if each is not None and each.sock is not None]
            return bool(idle) and not any(wait_for_read(each.sock, timeout=0) for each in idle)
        except Exception:  # noqa: BLE001 - whatever it is, the connection is not one to go on with
            return False

    def close(self) -> None:
        """End shell and connection; never raises."""
        with contextlib.suppress(Exception):
            if self._shell_id is not None and self.is_alive():
                self._winrm.transport.read_timeout_sec = 2.0
                self._winrm.close_shell(self._shell_id, close_session=False)
        with contextlib.suppress(Exception):
            self._winrm.transport.close_session()


def _wanted(target: Target) -> str | None:
    """Return the login that the record demands; None leaves it to what the machine offers.

    Raises:
        Unsupported: it demands one that cannot be made here.
    """
    wanted = (target.options.get("winrm_authentication") or "").strip().casefold() or None
    if wanted is not None and wanted not in _LOGINS:
        raise Unsupported(f"there is no winrm_authentication {wanted!r}", remedy="use kerberos, ntlm or basic")
    return None if wanted == "kerberos" else wanted


def _choose(endpoint: Endpoint, offered: frozenset[str], wanted: str | None) -> str:
    has_ntlm = bool(offered & {"negotiate", "ntlm"})
    if has_ntlm and wanted != "basic":
        return "ntlm"
    if "basic" not in offered or wanted == "ntlm":
        names = ", ".join(sorted(offered)) or "none"
        raise Unsupported(f"the machine offers no login for WinRM but {names}", remedy="let it offer Negotiate")
    if not endpoint.is_secure and not endpoint.is_loopback:
        raise Unsupported(
            "Basic over plain HTTP would show the password to everybody on the way",
            remedy="use HTTPS (port 5986), or let the machine offer Negotiate",
        )
    return "basic"
