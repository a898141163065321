"""What an SSH server tells of itself before a login."""

from __future__ import annotations

from connectors.base import Deadline, Service, Target
from connectors.ssh.errors import FAILURES
from connectors.ssh.keys import HostKeys
from connectors.ssh.link import SshLink
from pam_jobs.errors import TargetError

__all__ = ["is_cisco", "is_windows", "look_at_ssh"]


def look_at_ssh(host: str, port: int, deadline: Deadline) -> Service | None:
    """Return the service with its software and host key when it speaks SSH, without a login."""
    target = Target(host=host, port=port, protocol="ssh")
    try:
        link = SshLink.connect(target, HostKeys(), deadline)  # looking is not trusting: nothing is remembered
    except (*FAILURES, TargetError):
        return None
    service = Service(protocol="ssh", banner=link.banner, facts={"host_key": link.host_key})
    link.close()
    return service


def is_windows(service: Service) -> bool:
    """Say whether it is Microsoft's port of OpenSSH, which names itself so."""
    return "for_windows" in service.banner.casefold()


def is_cisco(service: Service) -> bool:
    """Say whether it is the SSH of Cisco IOS and IOS XE, which names itself so."""
    return service.banner.startswith("Cisco-")
