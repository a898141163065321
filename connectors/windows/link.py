"""Ways to a Windows machine: what the session asks of a connection, and the one over SSH."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from connectors.base import Deadline
from connectors.ssh.link import SshLink
from connectors.windows.errors import NoAnswer
from connectors.windows.programs import Answer, Program, command_line, encode_input, read_answer
from pam_jobs.secret import SecretValue

__all__ = ["Link", "WindowsSshLink", "nothing"]


def nothing() -> None:
    """Do nothing."""


class Link(Protocol):
    """One connection on which somebody is logged in; belongs to one thread at a time."""

    @property
    def server(self) -> str:
        """The server's software as it names itself."""
        ...

    @property
    def host_key(self) -> str | None:
        """The SSH server's key, "type base64"; None where there is none."""
        ...

    def call(
        self,
        program: Program,
        facts: Mapping[str, object],
        *secrets: SecretValue,
        deadline: Deadline,
        before: Callable[[], None] = nothing,
        renewed: SecretValue | None = None,
    ) -> Answer:
        """Run a program and return its answer.

        Args:
            program: which.
            facts: its input, nothing secret.
            secrets: one line of its input each.
            deadline: bounds every wait.
            before: called when the program has started and waits for its input.
            renewed: the password that who is logged in has once the input was read.

        Raises:
            Exception: one of ``errors.FAILURES``.
        """
        ...

    def is_alive(self) -> bool:
        """Say whether the connection is up."""
        ...

    def close(self) -> None:
        """End the connection; never raises."""
        ...


class WindowsSshLink:
    """PowerShell over SSH."""

    def __init__(self, link: SshLink, shell: str | None) -> None:
        """Use a connection on which somebody is logged in.

        Args:
            link: it.
            shell: PowerShell by another path.
        """
        self._link = link
        self._shell = shell

    @property
    def server(self) -> str:
        """The server's software as it names itself."""
        return self._link.banner

    @property
    def host_key(self) -> str | None:
        """The server's key, "type base64"."""
        return self._link.host_key

    def call(
        self,
        program: Program,
        facts: Mapping[str, object],
        *secrets: SecretValue,
        deadline: Deadline,
        before: Callable[[], None] = nothing,
        renewed: SecretValue | None = None,  # noqa: ARG002 - who is logged in stays so
    ) -> Answer:
        """Run a program and return its answer; see ``Link``."""
        line = command_line(program, self._shell)
        output = self._link.execute(line, deadline, stdin=encode_input(facts, *secrets), before_stdin=before)
        answer = read_answer(output.stdout.decode(errors="replace"))
        if answer is None:
            raise NoAnswer(output.exit_code, output.said)
        return answer

    def is_alive(self) -> bool:
        """Say whether the connection is up and logged in."""
        return self._link.is_alive()

    def close(self) -> None:
        """End the connection; never raises."""
        self._link.close()
