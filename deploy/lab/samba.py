"""A private Active Directory domain: Samba's domain controller with LDAPS and Kerberos, on a loopback address of its own.

A controller's ports are fixed (88, 389, 464, 636, 3268, 3269), so every one of the lab gets its own address in 127.77.0.0/16.
A new domain is made once for each version of Samba and kept in the user's cache; the next start takes it from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab.processes import LabError, Process, end, new_password, spawn, write_private
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import TlsFiles, ensure_tls

__all__ = ["SambaServer", "obstacles", "packages", "start", "stop"]

_START_SECONDS = 60.0
_ATTEMPTS = 3
_STATE = "samba.json"
_PROCESS = "samba.pid.json"
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOMAIN, _NETBIOS, _MACHINE = "ad.lab.test", "LAB", "DC1"
_BASE = "DC=ad,DC=lab,DC=test"
_PORTS = (88, 389, 636)

_CONFIGURATION = """
[global]
netbios name = {machine}
realm = {realm}
workgroup = {netbios}
server role = active directory domain controller
server services = ldap, cldap, kdc
interfaces = {host}/8
bind interfaces only = yes
private dir = {data}/domain/private
state directory = {data}/domain/state
cache directory = {data}/domain/cache
lock directory = {data}/domain
binddns dir = {data}/domain/bind-dns
pid directory = {data}/domain
ncalrpc dir = {data}/domain/ncalrpc
winbindd socket directory = {data}/domain/winbindd
log file = {data}/domain/log.%m
tls certfile = {tls.certificate}
tls keyfile = {tls.key}
tls cafile =
old password allowed period = {old_password_minutes}
"""

_KERBEROS = """
[libdefaults]
 default_realm = {realm}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
[realms]
 {realm} = {{
  kdc = {host}
  kpasswd_server = {host}
 }}
"""

# Run by the system's Python, which has Samba's modules; the wish comes on standard input, since it holds the password.
_PREPARE = """
import json, sys
import ldb
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
wish = json.load(sys.stdin)
settings = LoadParm()
settings.load(wish["configuration"])
database = SamDB(url=wish["database"], session_info=system_session(), lp=settings)
database.setpassword("(sAMAccountName=administrator)", wish["password"])
if wish["policy"]:
    change = ldb.Message(ldb.Dn(database, wish["base"]))
    for name, value in wish["policy"].items():
        change[name] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, name)
    database.modify(change)
"""


@dataclass(frozen=True, kw_only=True)
class SambaServer:
    """A running domain controller of the lab."""

    host: str  # a loopback address that is this controller's alone
    port: int  # LDAPS
    clear_port: int  # LDAP, which takes no passwords in the clear
    domain: str  # in the DNS
    netbios: str
    base: str
    admin_login: str  # a user principal name
    admin_password: str = field(repr=False)
    ca: Path
    kerberos: Path  # for KRB5_CONFIG
    folder: Path  # state of the lab
    data: Path
    log_path: Path
    process: Process

    def stop(self) -> None:
        """Shut the controller down; harmless when it is down."""
        stop(self.folder)


def obstacles() -> list[str]:
    """Return every reason why it cannot run here; empty when it can."""
    found = [] if os.geteuid() == 0 else ["only root may listen on the ports of a domain controller"]
    if lacking := packages():
        found.append(f"Samba is not complete (apt-get install {' '.join(lacking)})")
    return found


def packages() -> list[str]:
    """Return the Debian packages that are not there yet."""
    here = {
        "samba-ad-dc": all(shutil.which(program, path=_PATHS) for program in ("samba", "samba-tool")),
        "samba-ad-provision": Path("/usr/share/samba/setup/ad-schema").is_dir(),
        "samba-dsdb-modules": any(Path("/usr/lib").glob("*/samba/ldb/samba_dsdb.so")),
        "python3-samba": Path("/usr/lib/python3/dist-packages/samba").is_dir(),
        "winbind": shutil.which("winbindd", path=_PATHS) is not None,
        "krb5-user": shutil.which("kinit", path=_PATHS) is not None,
    }
    return [package for package, is_there in here.items() if not is_there]


def start(
    folder: Path, *, policy: Mapping[str, str] | None = None, old_password_minutes: int = 0, cache: Path | None = None
) -> SambaServer:
    """Make and start a new domain with one controller; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier controller of the lab left there is removed.
        policy: attributes of the domain's own entry, such as ``{"minPwdLength": "0"}``.
        old_password_minutes: how long the password before the last one logs in too; Windows and Samba say 60.
        cache: folder where a new domain is kept for the next start; the user's cache when absent.

    Raises:
        LabError: it cannot run here (every obstacle is named), or did not start; the text names the log.
    """
    against = obstacles()
    if against:
        raise LabError("no domain controller in the lab: " + "; ".join(against))
    folder = folder.resolve()
    stop(folder)
    data, log_path = folder / "samba", folder / "samba.log"
    shutil.rmtree(data, ignore_errors=True)  # left by a run that was killed
    data.mkdir(mode=0o700, parents=True)
    password = "Aa1-" + new_password()
    try:
        _take_domain(data, cache or _cache())
        host, process = _run(data, log_path, password, dict(policy or {}), old_password_minutes)
        shutil.copyfile(data / "tls" / "ca.pem", folder / "samba-ca.pem")
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    server = SambaServer(
        host=host, port=636, clear_port=389, domain=_DOMAIN, netbios=_NETBIOS, base=_BASE,
        admin_login=f"administrator@{_DOMAIN}", admin_password=password, ca=folder / "samba-ca.pem",
        kerberos=data / "krb5.conf", folder=folder, data=data, log_path=log_path, process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    state = {
        "host": host, "port": server.port, "clear_port": server.clear_port, "domain": _DOMAIN, "netbios": _NETBIOS,
        "base": _BASE, "login": server.admin_login, "password": password, "ca": str(server.ca),
        "kerberos": str(server.kerberos), "log": str(log_path),
    }  # fmt: skip
    write_private(folder / _STATE, json.dumps(state, indent=1))
    return server


def _environment(data: Path) -> dict[str, str]:
    return {"PATH": _PATHS, "HOME": str(data), "LC_ALL": "C.UTF-8"}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pam-jobs-lab"


def _take_domain(data: Path, cache: Path) -> None:
    """Put a domain that nobody used into the folder: from the cache, else a new one, which the cache then has."""
    kept = cache / f"samba-{_version()}.tar"
    if kept.exists() and kept.stat().st_uid == os.geteuid():
        with tarfile.open(kept) as archive:
            archive.extractall(data, filter="tar")
        return
    _provision(data)
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = cache / f".{kept.name}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds the domain's keys
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(data / "domain", "domain")
    fresh.replace(kept)


def _version() -> str:
    asked = subprocess.run(
        [str(shutil.which("samba", path=_PATHS)), "--version"], capture_output=True, text=True, check=False
    )
    return "".join(each if each.isalnum() or each in ".-" else "_" for each in asked.stdout.strip()) or "unknown"


def _provision(data: Path) -> None:
    write_private(data / "empty.conf", "[global]\n")  # else it takes settings from the machine's own configuration
    argv = [str(shutil.which("samba-tool", path=_PATHS)), "domain", "provision", "-s", str(data / "empty.conf")]
    argv += [f"--targetdir={data / 'domain'}", f"--realm={_DOMAIN.upper()}", f"--domain={_NETBIOS}", "--server-role=dc"]
    argv += ["--dns-backend=NONE", "--use-rfc2307", f"--host-name={_MACHINE.lower()}", "--host-ip=127.77.0.1"]
    # Without --adminpass it makes up a password of its own, which the start replaces.
    made = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", env=_environment(data))
    if made.returncode != 0:
        raise LabError(f"the domain could not be made: {made.stderr.strip()[-500:]}")


def _prepare(data: Path, password: str, policy: dict[str, str]) -> None:
    """Give the administrator a password and the domain its rules, before anybody can log in."""
    wish = {
        "configuration": str(data / "smb.conf"), "database": str(data / "domain" / "private" / "sam.ldb"),
        "base": _BASE, "password": password, "policy": policy,
    }  # fmt: skip
    argv = ["/usr/bin/python3", "-I", "-c", _PREPARE]
    done = subprocess.run(
        argv, input=json.dumps(wish), capture_output=True, text=True, check=False, cwd="/", env=_environment(data)
    )
    if done.returncode != 0:
        raise LabError(f"the domain could not be prepared: {done.stderr.strip()[-500:]}")


def _run(data: Path, log_path: Path, password: str, policy: dict[str, str], old_minutes: int) -> tuple[str, Process]:
    """Start the controller on a free address and wait until it answers."""
    is_prepared = False
    for _ in range(_ATTEMPTS):
        host = _free_address()
        names = [f"{_MACHINE.lower()}.{_DOMAIN}", _DOMAIN, host, "127.0.0.1", "localhost"]
        tls = ensure_tls(data / "tls", names, SystemClock())
        _configure(data, host, tls, old_minutes)
        if not is_prepared:
            _prepare(data, password, policy)
            is_prepared = True
        argv = [str(shutil.which("samba", path=_PATHS)), "-i", "-M", "single", "-s", str(data / "smb.conf")]
        process = spawn([*argv, "--debug-stdout", "-d", "1"], log_path, environment=_environment(data))
        if process.listens(*_PORTS, seconds=_START_SECONDS, host=host):
            return host, process
    raise LabError(f"the domain controller did not start: see {log_path}")


def _configure(data: Path, host: str, tls: TlsFiles, old_password_minutes: int) -> None:
    values = {
        "machine": _MACHINE,
        "realm": _DOMAIN.upper(),
        "netbios": _NETBIOS,
        "host": host,
        "data": data,
        "tls": tls,
    }
    text = _CONFIGURATION.format(**values, old_password_minutes=old_password_minutes)
    write_private(data / "smb.conf", text)
    write_private(data / "krb5.conf", _KERBEROS.format(realm=_DOMAIN.upper(), host=host))


def _free_address() -> str:
    """Return a loopback address on which nobody listens on a controller's ports at this moment."""
    for _ in range(100):
        host = f"127.77.{secrets.randbelow(254)}.{secrets.randbelow(254) + 1}"
        with contextlib.suppress(OSError), contextlib.ExitStack() as sockets:
            for port in _PORTS:
                sockets.enter_context(socket.create_server((host, port)))
            return host
    raise LabError("no free address for a domain controller in 127.77.0.0/16")


def stop(folder: Path) -> None:
    """Stop the controller whose state the folder holds and remove it; harmless when there is none."""
    if end(folder, "samba") is not None:
        shutil.rmtree(folder / "samba", ignore_errors=True)
        for name in ("samba.log", "samba-ca.pem"):
            (folder / name).unlink(missing_ok=True)
