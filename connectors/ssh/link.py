"""SSH connections: handshake, host key, login, commands and files. What a command means is not known here."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import paramiko

from connectors.base import Credential, Deadline, Target
from connectors.ssh.errors import LoginIncomplete, LoginRefused, TurnedAway
from connectors.ssh.keys import HostKeys, load_private_key
from pam_jobs.errors import Locked
from pam_jobs.secret import SecretValue

__all__ = ["Output", "SshLink"]

_HANDSHAKE_SECONDS = 15.0
_LOGIN_SECONDS = 30.0  # PAM may take its time to refuse
_OUTPUT_BYTES = 1 << 20  # of each stream; the rest is read and dropped
_INLINE_BYTES = 1 << 16  # of standard input that surely fits the server's window
# A server tells that a command ended before it has sent all output, and a child of the command may keep the stream open.
_LINGER_SECONDS = 1.0  # of silence, after which nothing more is awaited
_CHATTER_SECONDS = 10.0  # after which a child that is never silent is left alone
_SHELL_COLUMNS = 511
_LOG_CHANNEL = "connectors.ssh.link.paramiko"
_EXPIRED_WORDS = ("new password", "expired", "change your password", "current password")


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command ended, and the first mebibyte of each of its streams."""

    exit_code: int  # -1 when a signal ended it
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)

    @property
    def said(self) -> str:
        """Return both streams as text."""
        return (self.stdout + b"\n" + self.stderr).decode(errors="replace").strip()


class SshLink:
    """One SSH connection; belongs to one thread at a time."""

    def __init__(self, transport: paramiko.Transport, host_key: str) -> None:
        self._transport = transport
        self.host_key = host_key  # "type base64"

    @classmethod
    def connect(cls, target: Target, host_keys: HostKeys, deadline: Deadline) -> SshLink:
        """Connect and check the server's key; nobody is logged in yet.

        Raises:
            HostKeyMismatch: the key is not the right one.
            TurnedAway: the server said nothing of itself.
            OSError, TimeoutError, EOFError, paramiko.SSHException: no connection.
        """
        seconds = deadline.remaining(_HANDSHAKE_SECONDS)
        sock = socket.create_connection((target.host, target.port), timeout=seconds)
        try:
            transport = _transport(sock, seconds)
            preferred = host_keys.preferred_types(target)
            options = transport.get_security_options()
            known = [name for name in preferred if name in options.key_types]
            options.key_types = (*known, *(name for name in options.key_types if name not in known))
        except BaseException:
            sock.close()
            raise
        begun = time.monotonic()
        try:
            _shake_hands(transport, seconds)
            key = transport.get_remote_server_key()
            link = cls(transport, f"{key.get_name()} {key.get_base64()}")
            host_keys.check(target, link.host_key)
        except (paramiko.SSHException, EOFError, ConnectionResetError):
            transport.close()
            if not transport.remote_version and time.monotonic() - begun < seconds:
                raise TurnedAway("the server turned the connection away") from None
            raise
        except BaseException:
            transport.close()
            raise
        return link

    @property
    def banner(self) -> str:
        """Return the server's software as it names itself."""
        return self._transport.remote_version.removeprefix("SSH-2.0-").strip()

    def log_in(self, credential: Credential, deadline: Deadline) -> None:
        """Log in, with the key first when there are both; the password too when the server demands both.

        Raises:
            LoginRefused: the server looked at it and said no.
            LoginIncomplete: it demands more than we have.
            Locked: the password has expired.
            Unsupported: the private key cannot be used.
            TimeoutError, EOFError, paramiko.SSHException: no answer; proves nothing.
        """
        self._transport.auth_timeout = deadline.remaining(_LOGIN_SECONDS)
        with _limited(self._transport, deadline.remaining(_LOGIN_SECONDS)):
            refused = None
            for attempt in self._attempts(credential):
                try:
                    if not attempt():  # what the server still demands
                        return
                except (LoginRefused, paramiko.BadAuthenticationType) as error:
                    refused = error
            raise refused or LoginIncomplete("the server demands another factor")

    def settle(self, deadline: Deadline) -> None:
        """Wait until the server counts this login as finished; until then it still fills one of its places.

        Raises:
            TimeoutError, EOFError, paramiko.SSHException: the server ended the connection after all.
        """
        seconds = deadline.remaining(_HANDSHAKE_SECONDS)
        with _limited(self._transport, seconds), contextlib.suppress(paramiko.ChannelException):
            self._transport.open_session(timeout=seconds).close()

    def _attempts(self, credential: Credential) -> list[Callable[[], list[str]]]:
        attempts: list[Callable[[], list[str]]] = []
        if credential.private_key is not None:
            key = load_private_key(credential.private_key)
            attempts.append(lambda: self._settle(lambda: self._transport.auth_publickey(credential.login, key)))
        if credential.password is not None:
            password = credential.password
            attempts.append(lambda: self._password(credential.login, password))
        return attempts

    def _password(self, login: str, password: SecretValue) -> list[str]:
        try:
            return self._settle(lambda: self._transport.auth_password(login, password.reveal(), fallback=False))
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" not in error.allowed_types:
                raise
        answers = _Answers(password)
        return self._settle(lambda: self._transport.auth_interactive(login, answers))

    def _settle(self, attempt: Callable[[], list[str]]) -> list[str]:
        """Tell a refusal from an end of the connection, which paramiko reports by one exception."""
        try:
            return attempt()
        except (paramiko.BadAuthenticationType, paramiko.PasswordRequiredException):
            raise
        except paramiko.AuthenticationException as error:
            if str(error) == "Authentication failed." and self._transport.is_active():
                raise LoginRefused from None
            raise

    def execute(
        self,
        command: str,
        deadline: Deadline,
        *,
        stdin: bytes = b"",
        on_start: Callable[[], None] | None = None,
        before_stdin: Callable[[], None] | None = None,
    ) -> Output:
        """Run a command and wait for its end.

        Args:
            command: as the remote shell reads it; quoted by the caller.
            deadline: when it comes first, the whole connection is closed.
            stdin: sent and then ended.
            on_start: called when nothing but the request to start is left to do.
            before_stdin: called when the command has started and its input was not sent yet.

        Returns:
            The exit code, -1 when a signal ended the command.

        Raises:
            TimeoutError, EOFError, OSError, paramiko.SSHException: the connection ended before the exit code came.
        """
        seconds = deadline.remaining()
        with _limited(self._transport, seconds):
            channel = self._transport.open_session(timeout=seconds)
            try:
                channel.settimeout(seconds)
                if on_start is not None:
                    on_start()
                channel.exec_command(command)
                if before_stdin is not None:
                    before_stdin()
                _send(channel, stdin)
                stdout, stderr = _read(channel, deadline)
                if not channel.status_event.wait(deadline.remaining()):
                    raise TimeoutError("the command did not end in time")
                if channel.exit_status == -1 and not self._transport.is_active():
                    raise EOFError("the connection ended before the command")
            finally:
                channel.close()
        return Output(exit_code=channel.exit_status, stdout=stdout, stderr=stderr)

    def converse(self, answer: Callable[[str], bytes | None], deadline: Deadline) -> Output:
        """Open a terminal and hold a dialogue on it until the other side ends it.

        Args:
            answer: gets what was said since its last answer; returns what to send, nothing to wait for more, or None to hang up.
            deadline: when it comes first, the whole connection is closed.

        Raises:
            TimeoutError, EOFError, OSError, paramiko.SSHException: the connection ended before the exit code came.
        """
        seconds = deadline.remaining()
        said, seen = bytearray(), 0
        with _limited(self._transport, seconds):
            channel = self._transport.open_session(timeout=seconds)
            try:
                channel.settimeout(seconds)
                channel.get_pty(width=200)
                channel.invoke_shell()
                while data := channel.recv(4096):
                    said += data[: max(0, _OUTPUT_BYTES - len(said))]
                    given = answer(said[seen:].decode(errors="replace"))
                    if given is None:
                        return Output(exit_code=-1, stdout=bytes(said), stderr=b"")
                    if given:
                        seen = len(said)
                        channel.sendall(given)
                if not channel.status_event.wait(deadline.remaining()) or channel.exit_status == -1:
                    raise EOFError("the connection ended before the dialogue")
            finally:
                channel.close()
        return Output(exit_code=channel.exit_status, stdout=bytes(said), stderr=b"")

    def shell(self, deadline: Deadline) -> paramiko.Channel:
        """Return the login's command line, on a terminal so wide that no device breaks its lines.

        Raises:
            TimeoutError, EOFError, OSError, paramiko.SSHException: the server gives none.
        """
        seconds = deadline.remaining()
        with _limited(self._transport, seconds):
            channel = self._transport.open_session(timeout=seconds)
            try:
                channel.settimeout(seconds)
                channel.get_pty("vt100", width=_SHELL_COLUMNS, height=1000)
                channel.invoke_shell()
            except BaseException:
                channel.close()
                raise
        return channel

    @contextlib.contextmanager
    def files(self, deadline: Deadline) -> Iterator[paramiko.SFTPClient]:
        """Give access to the files of whoever is logged in; the connection is closed when the deadline comes first.

        Raises:
            paramiko.SSHException, EOFError: the server gives none.
        """
        seconds = deadline.remaining()
        with _limited(self._transport, seconds):
            channel = self._transport.open_session(timeout=seconds)
            try:
                channel.settimeout(seconds)
                channel.invoke_subsystem("sftp")
                yield paramiko.SFTPClient(channel)
            finally:
                channel.close()

    def is_alive(self) -> bool:
        """Say whether the connection is up and logged in."""
        return bool(self._transport.is_active() and self._transport.is_authenticated())

    def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(Exception):
            self._transport.close()


class _Answers:
    """Answers the questions of a keyboard-interactive login: the password, once, and nothing that would change it."""

    def __init__(self, password: SecretValue) -> None:
        self._password = password
        self._is_given = False

    def __call__(self, title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        asked = " ".join([title, instructions, *(text for text, _ in questions)]).lower()
        if questions and self._is_given:
            if any(words in asked for words in _EXPIRED_WORDS):
                raise Locked("the password has expired", remedy="set a new one as administrator")
            raise LoginIncomplete("the server asks for more than the password")
        if len(questions) > 1:
            raise LoginIncomplete("the server asks for more than the password")
        if questions:
            self._is_given = True
        return [self._password.reveal() for _ in questions]


def _transport(sock: socket.socket, seconds: float) -> paramiko.Transport:
    transport = paramiko.Transport(sock)
    transport.set_log_channel(_LOG_CHANNEL)
    logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL)  # what goes wrong is raised, and reported once, by us
    transport.banner_timeout = seconds
    transport.handshake_timeout = seconds
    transport.channel_timeout = seconds
    return transport


def _shake_hands(transport: paramiko.Transport, seconds: float) -> None:
    transport.start_client(timeout=seconds)
    if not transport.is_active() or transport.get_remote_server_key() is None:
        raise TimeoutError("the server did not finish the handshake in time")


@contextlib.contextmanager
def _limited(transport: paramiko.Transport, seconds: float) -> Iterator[None]:
    """Close the transport when the time is up: some of its waits know no limit of their own.

    Raises:
        TimeoutError: the time was up, in place of whatever that caused.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        transport.close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if is_over.is_set():
            raise TimeoutError("the server did not answer in time") from None
        raise
    finally:
        timer.cancel()


def _send(channel: paramiko.Channel, stdin: bytes) -> None:
    """Send and end the input; a command that ended before it read everything is no error, its exit code tells."""

    def work() -> None:
        with contextlib.suppress(OSError):
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()

    if len(stdin) <= _INLINE_BYTES:
        work()
    else:  # the command may print while it reads, and both windows would fill
        threading.Thread(target=work, daemon=True, name="ssh-stdin").start()


def _read(channel: paramiko.Channel, deadline: Deadline) -> tuple[bytes, bytes]:
    """Return both streams, read in turn until they end, or until nothing more comes after the command did."""
    streams = (bytearray(), bytearray())
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    ended: float | None = None
    heard = 0.0
    while not deadline.is_over:
        is_done = channel.eof_received or channel.closed  # looked at before reading, so that nothing is left behind
        moved = False
        for ready, receive, into in (
            (channel.recv_ready, channel.recv, streams[0]),
            (channel.recv_stderr_ready, channel.recv_stderr, streams[1]),
        ):
            while ready():
                moved = True
                data = receive(32768)
                into.extend(data[: max(0, _OUTPUT_BYTES - len(into))])
        now = time.monotonic()
        if moved:
            heard = now
        elif is_done:
            break
        if channel.exit_status_ready():
            ended = ended or now
            if now - max(ended, heard) > _LINGER_SECONDS or now - ended > _CHATTER_SECONDS:
                break
        if not moved:
            poller.poll(50)
    return bytes(streams[0]), bytes(streams[1])
