"""What the rotator may do on a Linux machine, looked up once a session."""

from __future__ import annotations

from dataclasses import replace

from connectors.base import Account, Credential, Deadline
from connectors.linux.forced import PasswordExpired, must_change_first
from connectors.linux.shell import (
    Entry,
    Privilege,
    Survey,
    as_root,
    as_user,
    check_login,
    command,
    read_survey,
    sudo_input,
    survey_command,
)
from connectors.ssh.errors import mapped
from connectors.ssh.link import Output, SshLink
from pam_jobs.errors import Forbidden, Unsupported
from pam_jobs.secret import SecretValue

__all__ = ["Rights"]


class Rights:
    """The rotator on one machine, and how it acts as somebody else."""

    def __init__(self, link: SshLink, rotator: Credential | None, deadline: Deadline, shell: str = "/bin/sh") -> None:
        self.shell = shell  # runs our scripts
        self.link = link
        self.rotator = rotator
        self.deadline = deadline
        self._surveys: dict[str, Survey] = {}
        self._privilege: Privilege | None = None

    def is_self(self, login: str) -> bool:
        """Say whether the account is the rotator itself."""
        return self.rotator is not None and self.rotator.login == login

    def renew(self, password: SecretValue | None) -> None:
        """Take note that the rotator set its own password: sudo and passwd ask for the new one from now on."""
        if password is not None and self.rotator is not None:
            self.rotator = replace(self.rotator, password=password)

    def entry(self, login: str) -> Entry:
        """Return the account's line in the user database.

        Raises:
            Unsupported: there is no such account.
        """
        entry = self._survey(login).entry
        if entry is None:
            raise Unsupported(f"there is no account {login!r}", remedy="check the login in the user record")
        return entry

    def require(self, account: Account) -> None:
        """Make sure that the rotator may change the account.

        Raises:
            Forbidden: it may not.
            Unsupported: there is no such account.
        """
        self.entry(account.login)
        if self.is_self(account.login) or self.privilege is not Privilege.NONE or self._may_be(account.login):
            return
        said = " ".join(self._survey(account.login).said.split())[-200:]
        raise Forbidden(f"the rotator may not change this account: {said}", remedy="allow it chpasswd in sudoers")

    @property
    def privilege(self) -> Privilege:
        """Return how the rotator sets others' passwords; where sudo asks, its password is tried with nothing to change."""
        if self._privilege is None:
            anybody = self.rotator.login if self.rotator else "root"
            survey = self._survey(next(iter(self._surveys), anybody))
            if survey.uid == 0:
                self._privilege = Privilege.ROOT
            elif survey.sudo_works or survey.doas_works:
                self._privilege = Privilege.SUDO if survey.sudo_works else Privilege.DOAS
            else:
                self._privilege = Privilege.NONE
                if survey.sudo_asks and self.rotator is not None and self.rotator.password:
                    checked = self._try_sudo(self.rotator.login)
                    self._privilege = Privilege.SUDO_PASSWORD if checked.exit_code == 0 else Privilege.NONE
        return self._privilege

    @property
    def tools(self) -> frozenset[str]:
        """Return which of the programs that matter the machine has."""
        anybody = self.rotator.login if self.rotator else "root"
        return self._survey(next(iter(self._surveys), anybody)).tools

    def as_user(self, login: str, argv: list[str]) -> list[str]:
        """Return the command as another user; its input begins with ``password_input(self.sudo)``."""
        return as_user(self.sudo, login, argv, self.tools)

    @property
    def sudo(self) -> Privilege:
        """Return how to ask for rights of other commands: sudo may allow those though it refuses ``chpasswd``."""
        return Privilege.SUDO if self.privilege is Privilege.NONE else self.privilege

    def as_root(self, argv: list[str]) -> Output | None:
        """Return what a harmless command said as root, or None where it failed or is not allowed."""
        output = self._execute(self.sudo, argv)
        return output if output.exit_code == 0 else None

    def password_input(self, privilege: Privilege) -> bytes:
        """Return what stands before a command's own input under this privilege."""
        return sudo_input(privilege, self.rotator.password if self.rotator else None)

    def _try_sudo(self, login: str) -> Output:
        """Let sudo take the rotator's password for a change of nothing."""
        if "chpasswd" in self.tools:
            return self._execute(Privilege.SUDO_PASSWORD, ["chpasswd"])
        line = command(["env", "LC_ALL=C", "sudo", "-k", "-S", "-p", "", "-l", "--", "passwd", login])
        with mapped(sent=False):
            return self.link.execute(line, self.deadline, stdin=self.password_input(Privilege.SUDO_PASSWORD))

    def _execute(self, privilege: Privilege, argv: list[str]) -> Output:
        line = command(["env", "LC_ALL=C", *as_root(privilege, argv)])
        with mapped(sent=False):
            return self.link.execute(line, self.deadline, stdin=self.password_input(privilege))

    def _survey(self, login: str) -> Survey:
        check_login(login)
        if login not in self._surveys:
            with mapped(sent=False):
                output = self.link.execute(self._survey_command(login), self.deadline)
            self._surveys[login] = self._read_survey(output, login)
        return self._surveys[login]

    def _survey_command(self, login: str) -> str:
        return survey_command(login, self.shell)

    def _read_survey(self, output: Output, login: str) -> Survey:
        if must_change_first(output):
            raise PasswordExpired
        return read_survey(output.said, login)

    def _may_be(self, login: str) -> bool:
        """Say whether sudo lets the rotator act as the account, which is enough for its keys."""
        asked = command(["sudo", "-n", "-l", "-u", login, "--", "/bin/sh", "-c", ":"])
        with mapped(sent=False):
            return self.link.execute(asked, self.deadline).exit_code == 0
