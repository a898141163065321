"""Setting a Linux password: by ``chpasswd`` or ``passwd`` as root, else by ``passwd`` as the account itself."""

from __future__ import annotations

from connectors.base import Fence
from connectors.linux.rights import Rights
from connectors.linux.shell import Privilege, as_root, command, read_chpasswd, read_passwd
from connectors.ssh.errors import FAILURES, map_error
from connectors.ssh.link import Output
from pam_jobs.errors import Forbidden
from pam_jobs.secret import SecretValue

__all__ = ["set_own_password", "set_password", "tell"]


def set_password(rights: Rights, login: str, password: SecretValue, fence: Fence) -> None:
    """Set the account's password.

    Effect on target: the account's password is the given one when this returns.

    Args:
        rights: of the rotator.
        login: of an account that exists.
        password: without line breaks.
        fence: called immediately before the password is sent.

    Raises:
        NotApplied: the password is certainly the old one.
        EffectUnknown: it may be either.
    """
    if rights.privilege is not Privilege.NONE:
        if "chpasswd" in rights.tools or "passwd" not in rights.tools:
            _by_chpasswd(rights, login, password, fence)
        else:
            _by_passwd_of_root(rights, login, password, fence)
    elif rights.is_self(login) and rights.rotator is not None and rights.rotator.password is not None:
        set_own_password(rights, rights.rotator.password, password, fence)
    else:
        raise Forbidden("the rotator may not change this password", remedy="allow it chpasswd in sudoers")


def _by_chpasswd(rights: Rights, login: str, password: SecretValue, fence: Fence) -> None:
    line = command(["env", "LC_ALL=C", *as_root(rights.privilege, ["chpasswd"])])
    stdin = rights.password_input(rights.privilege) + f"{login}:{password.reveal()}\n".encode()
    output = tell(rights, line, stdin, fence)
    failure = read_chpasswd(
        output.exit_code, output.said, password, rights.rotator.password if rights.rotator else None
    )
    if failure is not None:
        raise failure


def _by_passwd_of_root(rights: Rights, login: str, password: SecretValue, fence: Fence) -> None:
    """Set it as root where there is no chpasswd, as on some small systems: ``passwd`` asks root for the new one alone."""
    line = command(["env", "LC_ALL=C", *as_root(rights.privilege, ["passwd", login])])
    twice = f"{password.reveal()}\n{password.reveal()}\n"
    output = tell(rights, line, rights.password_input(rights.privilege) + twice.encode(), fence)
    failure = read_passwd(output.exit_code, output.said, password, rights.rotator.password if rights.rotator else None)
    if failure is not None:
        raise failure


def set_own_password(rights: Rights, old: SecretValue, new: SecretValue, fence: Fence) -> None:
    """Set the rotator's own password by ``passwd``; see ``set_password``."""
    if old == new:  # set already: it is logged in with this very value, which passwd would refuse as unchanged
        fence()
        return
    stdin = f"{old.reveal()}\n{new.reveal()}\n{new.reveal()}\n".encode()
    output = tell(rights, "env LC_ALL=C passwd", stdin, fence)
    failure = read_passwd(output.exit_code, output.said, old, new)
    if failure is not None:
        raise failure


def tell(rights: Rights, line: str, stdin: bytes, fence: Fence) -> Output:
    """Run a command whose input is the change; it has started, and waits, when the fence is called."""
    sent = False

    def before() -> None:
        nonlocal sent
        fence()
        sent = True

    try:
        return rights.link.execute(line, rights.deadline, stdin=stdin, before_stdin=before)
    except FAILURES as error:
        raise map_error(error, sent=sent) from None
