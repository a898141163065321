"""A session on one Windows machine, over whichever link."""

from __future__ import annotations

import base64
import contextlib
import ntpath
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from connectors.base import (
    Account,
    AccountMetadata,
    Candidate,
    CommandResult,
    Credential,
    Deadline,
    Dependant,
    DependantOutcome,
    Fence,
    Finding,
    Preflight,
    RunAs,
    Target,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.kept import KeptConnections, KeptSession
from connectors.windows import programs
from connectors.windows.dependants import Dependants
from connectors.windows.errors import FAILURES, map_error, map_refusal, mapped, verdict_of, verdict_of_logon
from connectors.windows.facts import Look, Rules, metadata_of, read_accounts
from connectors.windows.link import Link
from connectors.windows.names import PASSWORD_LENGTH, Name, check_password
from connectors.windows.programs import Answer, Program
from pam_jobs.errors import Effect, EffectUnknown, Forbidden, Locked, NotApplied, TargetError, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["WindowsSession"]

_POWERSHELL: Final = "-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File"


class WindowsSession(KeptSession[Link]):
    """A session on one machine."""

    def __init__(
        self,
        kept: KeptConnections[Link],
        login: Callable[[Target, Credential, Deadline], Link],
        target: Target,
        rotator: Credential | None,
        deadline: Deadline,
    ) -> None:
        super().__init__(kept, target, rotator, deadline)
        self._login = login
        self._looks: dict[str, Look] = {}
        self._may_change_others = False
        self.host_key: str | None = None  # "type base64" of an SSH server, once connected; for the caller to pin

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed.

        Raises:
            Forbidden: the rotator is neither administrator nor the account itself.
            Unsupported: there is no such account, or it is of a domain and this machine is no controller.
            PolicyRefused: the account, which changes itself, did so too lately.
            TargetError: anything else the machine said.
        """
        look = self._require(account)
        rules = self._rules(look)
        server = f"{look.version} ({self._require_link().server})"
        return Preflight(
            server=f"{server}, host key {self.host_key}" if self.host_key else server,
            is_self=self._is_self(account),
            account_exists=True,
            min_length=(look.user.minimum_length if look.user else None) or rules.minimum_length,
            max_length=PASSWORD_LENGTH,
            min_classes=rules.min_classes,
            forbidden_words=rules.forbidden_words(look.user) if look.user else (),
            forbidden_characters="\0\n\r",
        )

    def change(self, account: Account, candidate: Candidate, fence: Fence) -> Effect:
        """Set the password.

        Effect on target: ``Set-LocalUser`` or ADSI runs with the password from its standard input.

        Raises:
            NotApplied: the account is certainly as it was.
            EffectUnknown: it may have changed.
        """
        self._deadline.check("the change was sent")
        password = candidate.password
        if password is None or candidate.public_key is not None:
            raise Unsupported("only passwords are changed on Windows", remedy="remove the key from the user record")
        check_password(password)
        look = self._require(account)
        old = self._rotator.password if self._rotator else None
        if look.is_admin:
            answer = self._reset(account, password, fence)
        elif old is None:
            raise Unsupported("the account needs its present password to change it", remedy="add it to its record")
        elif old == password:  # set already: it is logged in with this very value
            fence()
            return Effect.APPLIED
        else:
            login = Name.parse(account.login).login
            answer = self._tell(programs.CHANGE_OWN, {"login": login}, password, old, fence=fence, account=account)
        if not answer.ok:
            raise map_refusal(answer, password, old)
        self._changed(account.login, password, is_self=self._is_self(account))
        self._looks.clear()
        return Effect.APPLIED

    def _reset(self, account: Account, password: SecretValue, fence: Fence) -> Answer:
        """Set the password as an administrator; it is set when the answer is ``ok``."""
        login = Name.parse(account.login).login
        return self._tell(programs.SET, {"login": login}, password, fence=fence, account=account)

    def probe(self, account: Account, credential: Credential) -> Verdict:
        """Log in with the password: an administrator lets the machine itself try it, which tells why it says no.

        Without one, or for the rotator's own account, it is a login from here.
        """
        if credential.password is None:
            return Verdict(state=VerdictState.UNKNOWN, cause="no_credential", detail="there is no password to try")
        try:
            name = Name.parse(credential.login)
        except Unsupported as error:
            return Verdict(state=VerdictState.UNKNOWN, cause="unsupported", detail=error.message)
        if self._link is not None and not self._is_self(account):
            with contextlib.suppress(*FAILURES, TargetError):
                if self._may_change_others or self._look(name).is_admin:
                    facts = {"login": name.login, "domain": name.domain}
                    answer = self._link.call(programs.CHECK, facts, credential.password, deadline=self._deadline)
                    if answer.ok and isinstance(answer.value, int):
                        return verdict_of_logon(answer.value)
        return self._why_refused(account, self._try(credential))

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the machine tells of the account without a login as it."""
        self._looks.pop(Name.parse(account.login).login, None)
        return metadata_of(self._require(account).user)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the accounts of the machine."""
        answer = self._ask(programs.LIST, {})
        if not answer.ok:
            yield Unseen(what="accounts", cause="not_permitted", detail=map_refusal(answer).message)
            return
        yield from read_accounts(answer.value)

    def dependants(self) -> Iterator[Dependant | Unseen]:
        """Yield what runs on the machine as an account with a password."""
        yield from self._dependants().found()

    def update_dependant(self, dependant: Dependant, run_as: RunAs, fence: Fence) -> DependantOutcome:
        """Give a service, task, pool or component the new password, and restart what runs.

        Effect on target: the programs of ``service_programs`` run, with the password from their standard input.
        """
        self._deadline.check("the update was sent")
        return self._dependants().update(dependant, run_as, fence)

    def _dependants(self) -> Dependants:
        rotator = self._rotator.login if self._rotator is not None else ""
        return Dependants(self._ask, self._tell, self._look(Name.parse(rotator)))

    def run(self, argv: list[str], stdin: bytes, deadline: Deadline) -> CommandResult:
        """Run a program or script on the machine: ``.ps1`` by PowerShell, ``.bat`` and ``.cmd`` by cmd.exe.

        Raises:
            Unreachable: it was not started.
            EffectUnknown: the connection ended before its exit code came.
        """
        file, arguments = _started(argv, self._target.options.get("Shell"))
        facts = {"file": file, "arguments": arguments, "folder": ntpath.dirname(argv[-1])}
        content = SecretValue(base64.b64encode(stdin).decode())
        answer = self._tell(programs.RUN, facts, content, deadline=deadline)
        if not answer.ok:
            raise NotApplied(
                f"the script was not started: {' '.join(answer.text.split())[-200:]}",
                remedy="name an interpreter that is installed on the machine in the script's command",
            )
        value = answer.value if isinstance(answer.value, dict) else {}
        return CommandResult(
            exit_code=int(value.get("exit", -1)), stdout=str(value.get("out", "")), stderr=str(value.get("err", ""))
        )

    def upload(self, directory_hint: str, name: str, content: bytes) -> str:
        """Write a file into a new folder that only its owner, administrators and the system may enter; return its path.

        Raises:
            Unsupported: the name is none.
            NotApplied: the file is not there.
        """
        if not name or name in {".", ".."} or any(char in '<>:"/\\|?*' or ord(char) < 32 for char in name):
            raise Unsupported("the script's name is no name of a file", remedy="rename the attachment")
        text = SecretValue(base64.b64encode(content).decode())
        answer = self._ask(programs.UPLOAD, {"parent": directory_hint, "name": name}, text)
        if not answer.ok or not isinstance(answer.value, str):
            said = " ".join(answer.text.split())[-200:]
            raise NotApplied(f"the script could not be put on the machine: {said}", remedy="check space and rights")
        return answer.value

    def remove(self, path: str) -> None:
        """Remove what ``upload`` wrote, with its folder; no error when it is gone already.

        Raises:
            Unsupported: ``upload`` never made such a path.
            NotApplied: it is still there.
        """
        folder = ntpath.dirname(path)
        if not ntpath.basename(folder).startswith("pam-jobs.") or ".." in path.replace("/", "\\").split("\\"):
            raise Unsupported(f"{path!r} is none of our files")
        if not self._ask(programs.REMOVE, {"path": path}).ok:
            raise NotApplied("the script's folder could not be removed", remedy=f"remove {folder} by hand")

    def _log_in(self, rotator: Credential) -> Link:
        if not rotator.password and not rotator.private_key:
            raise Unsupported("the rotator has neither password nor key", remedy="add one to the admin's record")
        Name.parse(rotator.login)
        with mapped(sent=False):
            return self._login(self._target, rotator, self._deadline)

    def _prepare(self, link: Link) -> None:
        self.host_key = link.host_key

    def _require(self, account: Account) -> Look:
        """Return what is known of the account once it is sure that the rotator may change it.

        Raises:
            Forbidden: it may not.
            Unsupported: there is no such account here.
        """
        name = Name.parse(account.login)
        look = self._look(name)
        look.check(name)
        if not look.is_admin and not self._is_self(account):
            raise Forbidden(
                "the rotator is no administrator of the machine", remedy="make it a member of Administrators"
            )
        return look

    def _rules(self, look: Look) -> Rules:
        """Return the rules for passwords, as far as the rotator may know them.

        Raises:
            PolicyRefused: the account, which changes itself, did so too lately.
        """
        if look.is_admin:
            with contextlib.suppress(TargetError):
                return Rules.read(self._ask(programs.RULES, {}).value)
        elif look.user is not None:
            look.user.check_age()
        return Rules()

    def _look(self, name: Name) -> Look:
        if name.login not in self._looks:
            answer = self._ask(programs.LOOK, {"login": name.login})
            if not answer.ok:
                raise map_refusal(answer)
            self._looks[name.login] = Look.read(answer.value)
            self._may_change_others = self._looks[name.login].is_admin
        return self._looks[name.login]

    def _ask(self, program: Program, facts: Mapping[str, object], *secrets: SecretValue) -> Answer:
        """Run a program that changes nothing that matters.

        Raises:
            NotApplied: it did not run.
        """
        with mapped(sent=False):
            return self._require_link().call(program, facts, *secrets, deadline=self._deadline)

    def _tell(
        self, program: Program, facts: Mapping[str, object], *secrets: SecretValue,
        fence: Fence | None = None, account: Account | None = None, deadline: Deadline | None = None,
    ) -> Answer:  # fmt: skip
        """Run a program that changes something; it has started, and waits for its input, when the fence is called."""
        sent = False

        def before() -> None:
            nonlocal sent
            if fence is not None:
                fence()
            sent = True

        renewed = secrets[0] if account is not None and self._is_self(account) else None
        try:
            return self._require_link().call(
                program, facts, *secrets, deadline=deadline or self._deadline, before=before, renewed=renewed
            )
        except FAILURES as error:
            raise map_error(error, sent=sent) from None

    def _is_self(self, account: Account) -> bool:
        if self._rotator is None:
            return False
        try:
            return Name.parse(self._rotator.login).is_same(Name.parse(account.login))
        except Unsupported:
            return False

    def _try(self, credential: Credential) -> Verdict:
        """Log in once from here and out again."""
        part = Credential(login=credential.login, password=credential.password)
        try:
            link = self._login(self._target, part, self._deadline)
        except Locked as error:
            return Verdict(state=VerdictState.LOCKED, cause="expired", detail=error.message)
        except (*FAILURES, TargetError) as error:
            return verdict_of(error)
        try:
            opened: Any = getattr(link, "open", None)  # WinRM has looked at the password, and may give no shell
            if opened is not None:
                opened(self._deadline)
        except (*FAILURES, EffectUnknown) as error:
            verdict = verdict_of(error)
            if verdict.state is VerdictState.REFUSED:
                return Verdict(state=VerdictState.UNKNOWN, cause="no_connect_right", detail="the account gets no shell")
            return verdict
        finally:
            link.close()
        return Verdict(state=VerdictState.ACCEPTED)

    def _why_refused(self, account: Account, verdict: Verdict) -> Verdict:
        """Look whether the account is locked or disabled: the right password is refused in the same words."""
        if verdict.state is not VerdictState.REFUSED or self._link is None:
            return verdict
        with contextlib.suppress(TargetError):
            found = self.metadata(account)
            if found.locked or found.disabled:
                cause = "locked" if found.locked else "disabled"
                return Verdict(state=VerdictState.LOCKED, cause=cause, detail=f"the account is {cause}")
        return verdict


def _started(argv: list[str], shell: str | None) -> tuple[str, str]:
    """Return the program that is started and its arguments as one line, which Windows hands over unsplit.

    Raises:
        Unsupported: a batch file's words hold what cmd.exe would read as more than words.
    """
    if any("\0" in word for word in argv):
        raise Unsupported("a command's words cannot have a NUL")
    kind = ntpath.splitext(argv[0])[1].casefold()
    if kind == ".ps1":
        return shell or programs.POWERSHELL, f"{_POWERSHELL} {subprocess.list2cmdline(argv)}"
    if kind in {".bat", ".cmd"}:
        if any(char in '"%^&|<>!\n\r' for word in argv for char in word):
            raise Unsupported("a word of the batch file's command means more to cmd.exe", remedy="use a .ps1 script")
        return "cmd.exe", f'/d /s /c "{subprocess.list2cmdline(argv)}"'
    return argv[0], subprocess.list2cmdline(argv[1:])
