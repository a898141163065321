"""A session on one Mac: what differs from Linux, over the same link."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from connectors.base import (
    Account,
    AccountMetadata,
    Credential,
    Fence,
    Finding,
    Preflight,
    Unseen,
    Verdict,
    VerdictState,
)
from connectors.linux.passwords import set_own_password, tell
from connectors.linux.rights import Rights
from connectors.linux.session import LinuxSession
from connectors.linux.shell import Privilege, Survey, as_root, command
from connectors.macos import shell
from connectors.ssh.errors import FAILURES, mapped
from connectors.ssh.link import Output, SshLink
from pam_jobs.errors import AmbiguousReply, Forbidden, TargetError
from pam_jobs.secret import SecretValue

__all__ = ["MacSession"]


class MacRights(Rights):
    """The rotator on one Mac."""

    def _survey_command(self, login: str) -> str:
        return shell.survey_command(login)

    def _read_survey(self, output: Output, login: str) -> Survey:
        return shell.read_survey(output.said, login)

    def _try_sudo(self, login: str) -> Output:
        words = ["env", "LC_ALL=C", "sudo", "-k", "-S", "-p", "", "-l", "--", *shell.RESET, login]
        with mapped(sent=False):
            return self.link.execute(command(words), self.deadline, stdin=self.password_input(Privilege.SUDO_PASSWORD))


class MacSession(LinuxSession):
    """A session on one machine."""

    def preflight(self, account: Account) -> Preflight:
        """Learn whether the change would be allowed; see ``Session``."""
        found = super().preflight(account)
        return Preflight(
            server=f"macOS, {found.server}", is_self=found.is_self, account_exists=True,
            max_length=found.max_length, forbidden_characters=found.forbidden_characters,
        )  # fmt: skip

    def metadata(self, account: Account) -> AccountMetadata:
        """Return what the machine's directory tells: when the password was set (root is told), and whether it is disabled."""
        rights = self._rights
        rights.entry(account.login)
        words = ["dscl", ".", "-read", f"/Users/{account.login}", "AuthenticationAuthority", "accountPolicyData"]
        output = rights.as_root(words)
        if output is None:
            with mapped(sent=False):
                output = rights.link.execute(command(["env", "LC_ALL=C", *words]), self._deadline)
        return shell.read_metadata(output.stdout)

    def discover(self) -> Iterator[Finding | Unseen]:
        """Yield the accounts of the machine."""
        with mapped(sent=False):
            listed = self._require_link().execute("dscl . -list /Users UniqueID", self._deadline)
        if listed.exit_code != 0:
            yield Unseen(what="accounts", cause="not_permitted", detail="dscl failed")
            return
        yield from shell.read_accounts(listed.stdout.decode(errors="replace"))

    def _new_rights(self, link: SshLink, shell: str) -> Rights:
        return MacRights(link, self._rotator, self._deadline, shell)

    def _set_password(self, account: Account, password: SecretValue, fence: Fence) -> None:
        """Set it by ``sysadminctl`` as root, else by ``passwd`` as the account itself, and look whether it was done."""
        rights = self._rights
        own = rights.rotator.password if rights.rotator else None
        if rights.is_self(account.login) and own is not None:
            set_own_password(rights, own, password, fence)
            return
        if rights.privilege is Privilege.NONE:
            raise Forbidden("the rotator may not change this password", remedy="allow it sysadminctl in sudoers")
        words = ["env", "LC_ALL=C", *as_root(rights.privilege, [*shell.RESET, account.login])]
        stdin = rights.password_input(rights.privilege) + f"{password.reveal()}\n".encode()
        output = tell(rights, command(words), stdin, fence)
        failure = shell.read_reset(output.exit_code, output.said, password, own)
        if failure is not None:
            raise failure
        if self._authenticate(account, password) is VerdictState.REFUSED:
            raise AmbiguousReply("sysadminctl reported no failure, and the machine does not know the new password")

    def _authenticate(self, account: Account, password: SecretValue) -> VerdictState:
        verdict = self._ask_directory(account, password)
        return VerdictState.UNKNOWN if verdict is None else verdict.state

    def _ask_directory(self, account: Account, password: SecretValue) -> Verdict | None:
        """Let the machine's own directory try the password; None where it did not decide."""
        rights = self._rights
        with contextlib.suppress(TargetError, *FAILURES):
            words = as_root(rights.privilege, ["dscl", ".", "-authonly", account.login])
            stdin = rights.password_input(rights.privilege) + f"{password.reveal()}\n".encode()
            output = rights.link.execute(command(["env", "LC_ALL=C", *words]), rights.deadline, stdin=stdin)
            return shell.read_authentication(output.exit_code, output.said)
        return None

    def _probe_refused(self, account: Account, credential: Credential, verdict: Verdict) -> Verdict:
        """Ask the directory: sshd refuses the right password too of whoever is not in its access group."""
        if self._link is None or credential.password is None or credential.private_key is not None:
            return verdict
        told = self._ask_directory(account, credential.password)
        if told is None or told.state is VerdictState.REFUSED:
            return verdict
        if told.state is VerdictState.ACCEPTED:
            detail = "the password is right, and the account may not log in over SSH"
            return Verdict(state=VerdictState.ACCEPTED, cause="no_connect_right", detail=detail)
        return told

    def _why_cut(self, account: Account, verdict: Verdict) -> Verdict:  # noqa: ARG002 - there is no chage to ask
        return verdict
