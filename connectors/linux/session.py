"""A session on one Linux machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    CommandResult,
    Credential,
    Deadline,
    Fence,
    Finding,
    Preflight,
    Target,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.kept import KeptConnections, KeptSession
from connectors.linux.files import ScriptFiles
from connectors.linux.forced import PasswordExpired, change_expired, must_change_first
from connectors.linux.keys import KeyFile, OwnKeyFile, UserKeyFile
from connectors.linux.passwords import set_password
from connectors.linux.rights import Rights
from connectors.linux.shell import (
    PASSWORD_BYTES,
    Entry,
    check_password,
    command,
    metadata_of,
    read_entries,
    read_expiry,
    read_status,
    shell_of,
)
from connectors.ssh.authorized_keys import with_key
from connectors.ssh.errors import FAILURES, map_error, mapped, verdict_of
from connectors.ssh.link import Output, SshLink
from pam_jobs.errors import Effect, Locked, NotApplied, PartlyApplied, TargetError, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["LinuxSession"]


class LinuxSession(KeptSession[SshLink]):
    """A session on one machine."""

    def __init__(
        self,
        kept: KeptConnections[SshLink],
        login: Callable[[Target, Credential, Deadline], SshLink],
        target: Target,
        rotator: Credential | None,
        deadline: Deadline,
    ) -> None:
        super().__init__(kept, target, rotator, deadline)
        self._login = login
        self._rights_known: Rights | None = None
        self.host_key: str | None = None  # "type base64" of the server, once connected; for the caller to pin

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed.

        Raises:
            Forbidden: the rotator is neither root, nor allowed by sudo, nor the account itself.
            Unsupported: there is no such account.
            TargetError: anything else the machine said.
        """
        try:
            self._rights.require(account)
        except PasswordExpired:
            if not self._is_self(account):
                raise
        link = self._require_link()
        return Preflight(
            server=f"{link.banner}, host key {link.host_key}",
            is_self=self._is_self(account),
            account_exists=True,
            max_length=PASSWORD_BYTES,
            forbidden_characters="\0\n\r",
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password, the key, or first the one and then the other.

        Effect on target: ``chpasswd`` or ``passwd`` runs with the password on its standard input; ``authorized_keys``
        is replaced in one step, with a backup beside it.

        Raises:
            NotApplied: the account is certainly as it was.
            PartlyApplied: the password was set, and the key certainly not.
            EffectUnknown: it may have changed, in part or whole.
        """
        self._deadline.check("the change was sent")
        if candidate.password is None and candidate.public_key is None:
            raise Unsupported("there is neither a password nor a key to set", remedy="give the user record one of them")
        if candidate.password is not None:
            check_password(candidate.password)
        try:
            entry = self._rights.entry(account.login)
        except PasswordExpired:
            return self._change_expired(account, candidate, fence)
        write_key = self._key_change(account, candidate, entry)
        once = _Once(fence)
        if candidate.password is not None:
            self._set_password(account, candidate.password, once)
            self._after_change(account, candidate.password)
        if write_key is not None:
            try:
                write_key(once)
            except NotApplied as error:
                if candidate.password is None:
                    raise
                raise PartlyApplied(error.message, remedy=error.remedy, changed="password") from None
            self._after_change(account, None)
        return Effect.APPLIED

    def _change_expired(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Change one's own password that must be changed first; the server ends the connection afterwards.

        Raises:
            PasswordExpired: it is another account's change, or there is nothing to change it from or to.
            PartlyApplied: a key was to be set as well.
        """
        old = self._rotator.password if self._rotator else None
        if old is None or candidate.password is None or not self._is_self(account):
            raise PasswordExpired
        link = self._require_link()
        try:
            change_expired(link, old, candidate.password, fence, self._deadline)
        finally:
            self._link, self._rights_known = None, None
            self._kept.discard(link)
        self._after_change(account, None)
        if candidate.public_key is not None:
            raise PartlyApplied("the password had to be changed before the key", remedy="rotate again")
        return Effect.APPLIED

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in afresh with each part of the credential, so that a key cannot vouch for a password."""
        parts = [
            part
            for part in (
                Credential(login=credential.login, password=credential.password),
                Credential(login=credential.login, private_key=credential.private_key),
            )
            if part.password or part.private_key
        ]
        if not parts:
            return Verdict(state=VerdictState.UNKNOWN, cause="no_credential", detail="there is nothing to log in with")
        verdicts = [self._why_cut(account, self._try(part)) for part in parts]
        states = {verdict.state for verdict in verdicts}
        for decisive in (VerdictState.UNKNOWN, VerdictState.LOCKED):
            if decisive in states:
                return next(verdict for verdict in verdicts if verdict.state is decisive)
        if len(states) > 1:
            refused = "password" if verdicts[0].state is VerdictState.REFUSED else "key"
            detail = f"the {refused} was refused, the other part logs in"
            return Verdict(state=VerdictState.PARTIAL, cause=f"{refused}_refused", detail=detail)
        if states == {VerdictState.REFUSED}:
            return self._probe_refused(account, credential, verdicts[0])
        return verdicts[0]

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what ``passwd -S`` and ``chage`` tell; nothing where sudo does not allow them."""
        self._rights.entry(account.login)
        status = self._rights.as_root(["passwd", "-S", account.login])
        aging = self._rights.as_root(["chage", "-l", account.login])
        return metadata_of(_text(status), _text(aging))

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the accounts of the machine."""
        with mapped(sent=False):
            listed = self._require_link().execute("getent passwd", self._deadline)
        if listed.exit_code != 0:
            yield Unseen(what="accounts", cause="not_permitted", detail="getent passwd failed")
            return
        entries = read_entries(listed.stdout.decode(errors="replace"))
        status = self._rights.as_root(["passwd", "-S", "-a"])
        states = {}
        if status is None:
            yield Unseen(
                what="which accounts are locked", cause="not_permitted", detail="sudo does not allow passwd -S"
            )
        else:
            states = {login: locked for login, locked, _ in map(read_status, _text(status).splitlines())}
        for entry in entries:
            yield _finding(entry, states.get(entry.login))

    def run(self, argv: list[str], stdin: bytes, deadline: Deadline) -> CommandResult:
        """Run one command on the machine, as the rotator.

        Raises:
            Unreachable: the command was not started.
            EffectUnknown: the connection ended before the command's exit code came.
        """
        sent = False

        def start() -> None:
            nonlocal sent
            sent = True

        try:
            output = self._require_link().execute(command(argv), deadline, stdin=stdin, on_start=start)
        except FAILURES as error:
            raise map_error(error, sent=sent) from None
        return CommandResult(
            exit_code=output.exit_code,
            stdout=output.stdout.decode(errors="replace"),
            stderr=output.stderr.decode(errors="replace"),
        )

    def upload(self, directory_hint: str, name: str, content: bytes) -> str:
        """Write a private file (0700) into a new private folder of the machine and return its path.

        Raises:
            NotApplied: the file is not there.
        """
        return ScriptFiles(self._require_link(), self._deadline).upload(directory_hint, name, content)

    def remove(self, path: str) -> None:
        """Remove what ``upload`` wrote, with its folder; no error when it is gone already.

        Raises:
            Unsupported: ``upload`` never made such a path.
        """
        ScriptFiles(self._require_link(), self._deadline).remove(path)

    def _log_in(self, rotator: Credential) -> SshLink:
        if not rotator.password and not rotator.private_key:
            raise Unsupported("the rotator has neither password nor key", remedy="add one to the admin's record")
        with mapped(sent=False):
            return self._login(self._target, rotator, self._deadline)

    def _prepare(self, link: SshLink) -> None:
        self.host_key = link.host_key

    def _after_change(self, account: Account, password: SecretValue | None) -> None:
        is_self = self._is_self(account)
        self._changed(account.login, password, is_self=is_self)
        if is_self and password is not None:
            self._rights.renew(password)

    @property
    def _rights(self) -> Rights:
        if self._rights_known is None:
            self._rights_known = self._new_rights(self._require_link(), shell_of(self._target.options.get("Shell")))
        return self._rights_known

    def _new_rights(self, link: SshLink, shell: str) -> Rights:
        return Rights(link, self._rotator, self._deadline, shell)

    def _key_change(self, account: Account, candidate: Candidate, entry: Entry) -> Callable[[Fence], None] | None:
        """Read the account's keys and return what writes the new ones; None when there is no key to set."""
        if candidate.public_key is None:
            return None
        file: KeyFile = OwnKeyFile(link=self._require_link(), deadline=self._deadline)
        if not self._is_self(account):
            file = UserKeyFile(rights=self._rights, login=account.login, home=entry.home)
        old = file.read()
        new = with_key(
            old or b"", candidate.public_key, candidate.key_comment or f"keeper-security-{account.record_uid}"
        )

        def write(fence: Fence) -> None:
            if new == old:  # set already, by an earlier attempt
                fence()
            else:
                file.write(old, new, fence)

        return write

    def _try(self, part: Credential) -> Verdict:
        """Log in once and out again."""
        try:
            link = self._login(self._target, part, self._deadline)
        except Locked as error:
            return Verdict(state=VerdictState.LOCKED, cause="expired", detail=error.message)
        except (*FAILURES, TargetError) as error:
            return verdict_of(error)
        self.host_key = link.host_key
        try:
            if part.password is not None and self._is_expired(link):
                detail = "the machine demands a new password before anything else"
                return Verdict(state=VerdictState.LOCKED, cause="expired", detail=detail)
        finally:
            link.close()
        return Verdict(state=VerdictState.ACCEPTED)

    def _is_expired(self, link: SshLink) -> bool:
        """Say whether the login may do nothing but change its password: sshd lets it in and tells it there."""
        try:
            output = link.execute(":", self._deadline)
        except FAILURES:
            return False  # the login itself was accepted
        return must_change_first(output)

    def _why_cut(self, account: Account, verdict: Verdict) -> Verdict:
        """Look whether the account is over: sshd then ends the connection once the right password has come."""
        if verdict.state is not VerdictState.UNKNOWN or verdict.cause != "unreachable" or self._link is None:
            return verdict
        with contextlib.suppress(TargetError, *FAILURES):
            aging = _text(self._rights.as_root(["chage", "-l", account.login]))
            expiry = read_expiry(aging)
            if expiry is not None and expiry <= datetime.now(UTC):
                return Verdict(state=VerdictState.LOCKED, cause="expired", detail="the account has expired")
        return verdict

    def _set_password(self, account: Account, password: SecretValue, fence: Fence) -> None:
        set_password(self._rights, account.login, password, fence)

    def _probe_refused(self, account: Account, credential: Credential, verdict: Verdict) -> Verdict:  # noqa: ARG002
        """Look whether the account is locked or expired: sshd refuses the right password too, in the same words."""
        if self._link is None:
            return verdict
        with contextlib.suppress(TargetError):
            if self.metadata(account).locked:
                return Verdict(state=VerdictState.LOCKED, cause="locked", detail="the account's password is locked")
        return verdict


class _Once:
    """A fence that is called for the first of two changes only."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._is_called = False

    def __call__(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._fence()


def _text(output: Output | None) -> str:
    return "" if output is None else output.stdout.decode(errors="replace")


def _finding(entry: Entry, locked: bool | None) -> Finding:  # noqa: FBT001
    facts: dict[str, str | bool | int] = {
        "uid": entry.uid, "gid": entry.gid, "home": entry.home, "shell": entry.shell,
        "system": entry.uid < 1000 and entry.uid != 0,
    }  # fmt: skip
    if locked is not None:
        facts["locked"] = locked
    return Finding(kind="users", name=entry.login, facts=facts)
