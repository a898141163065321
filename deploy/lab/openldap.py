"""A private OpenLDAP: LDAP with StartTLS, LDAPS, a CA of its own, and the password policy overlay; loopback only."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab.processes import (
    LabError,
    Process,
    drop,
    end,
    free_port,
    new_password,
    place,
    spawn,
    unprivileged_user,
    write_private,
)
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import TlsFiles, ensure_tls

__all__ = ["LdapServer", "start", "stop"]

_START_SECONDS = 30.0
_PORT_ATTEMPTS = 3  # a port found free may be taken before the server binds it
_STATE = "openldap.json"
_PROCESS = "openldap.pid.json"
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BASE = "dc=lab,dc=test"
_SCHEMAS = ("core", "cosine", "nis", "inetorgperson")

_CONFIGURATION = """
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {data}/slapd.pid
TLSCACertificateFile {tls.ca}
TLSCertificateFile {tls.certificate}
TLSCertificateKeyFile {tls.key}
password-hash {{SSHA}}
threads 4
loglevel stats
database config
rootdn cn=config
rootpw {hashed}
database mdb
maxsize 67108864
dbnosync
suffix {base}
rootdn cn=admin,{base}
rootpw {hashed}
directory {data}/db
index objectClass,uid,cn eq
overlay ppolicy
ppolicy_default cn=default,ou=policies,{base}
ppolicy_hash_cleartext
access to attrs=userPassword by dn.base="cn=helper,{base}" write by self write by anonymous auth by * none
access to dn.subtree="ou=hidden,{base}" by dn.base="cn=helper,{base}" read by * none
access to * by self write by dn.base="cn=helper,{base}" write by users read by anonymous {anonymous}
"""

_ENTRIES = """
dn: {base}
objectClass: dcObject
objectClass: organization
dc: lab
o: Lab

dn: ou=people,{base}
objectClass: organizationalUnit
ou: people

dn: ou=hidden,{base}
objectClass: organizationalUnit
ou: hidden

dn: ou=policies,{base}
objectClass: organizationalUnit
ou: policies
"""

_POLICY = """
dn: cn={name},ou=policies,{base}
objectClass: device
objectClass: pwdPolicy
cn: {name}
pwdAttribute: userPassword
pwdInHistory: 3
pwdMinLength: 8
pwdCheckQuality: 1
pwdMaxFailure: 5
pwdLockout: TRUE
pwdLockoutDuration: 300
"""


@dataclass(frozen=True, kw_only=True)
class LdapServer:
    """A running directory of the lab."""

    host: str
    port: int  # LDAP, with StartTLS
    secure_port: int  # LDAPS
    base: str
    admin_login: str  # the distinguished name of the administrator, whom no policy holds
    admin_password: str = field(repr=False)
    ca: Path
    folder: Path  # state of the lab
    data: Path
    log_path: Path
    process: Process

    def stop(self) -> None:
        """Shut the server down; harmless when it is down."""
        stop(self.folder)


def start(
    folder: Path, *, anonymous: str = "read", policies: Mapping[str, Mapping[str, str]] | None = None
) -> LdapServer:
    """Make and start a new directory; its state is in the folder, its secrets in files of mode 0600.

    Args:
        folder: an existing or new folder; what an earlier directory of the lab left there is removed.
        anonymous: what nobody may do with entries: "read", "search", "auth" or "none"; passwords are never readable.
        policies: password policies beside the default one, by name: what differs from it.

    Raises:
        LabError: no binaries, or the server did not start; the text names the log.
    """
    folder = folder.resolve()
    stop(folder)
    user = unprivileged_user("openldap", "nobody")
    base = place(folder, user)
    data, log_path = base / "openldap", base / "openldap.log"
    shutil.rmtree(data, ignore_errors=True)  # left by a run that was killed
    data.mkdir(mode=0o700)
    (data / "db").mkdir(mode=0o700)
    password = new_password()
    try:
        tls = ensure_tls(data / "tls", ["localhost", "127.0.0.1"], SystemClock())
        shutil.copyfile(tls.ca, base / "openldap-ca.pem")
        _write(data, tls, password, anonymous, policies or {})
        _own(data, user)
        _load(data, user)
        port, secure_port, process = _run(data, log_path, user)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        if base != folder and not log_path.exists():  # a log is kept, since the error names it
            shutil.rmtree(base, ignore_errors=True)
        raise
    server = LdapServer(
        host="127.0.0.1", port=port, secure_port=secure_port, base=_BASE, admin_login=f"cn=admin,{_BASE}",
        admin_password=password, ca=base / "openldap-ca.pem", folder=folder, data=data, log_path=log_path,
        process=process,
    )  # fmt: skip
    process.save(folder / _PROCESS)
    state = {
        "host": server.host, "port": port, "secure_port": secure_port, "base": _BASE, "login": server.admin_login,
        "password": password, "ca": str(server.ca), "data": str(data), "log": str(log_path),
    }  # fmt: skip
    write_private(folder / _STATE, json.dumps(state, indent=1))
    return server


def _write(data: Path, tls: TlsFiles, password: str, anonymous: str, policies: Mapping[str, Mapping[str, str]]) -> None:
    """Write configuration and first entries."""
    schemas = "\n".join(f"include /etc/ldap/schema/{name}.schema" for name in _SCHEMAS)
    rest = _CONFIGURATION.format(data=data, tls=tls, hashed=_hashed(password), base=_BASE, anonymous=anonymous)
    write_private(data / "slapd.conf", schemas + rest)
    entries = [_ENTRIES.format(base=_BASE)]
    for name, differing in {"default": {}, **policies}.items():
        lines = _POLICY.format(name=name, base=_BASE).splitlines()
        kept = [line for line in lines if line.partition(":")[0] not in differing]
        entries.append("\n".join([*kept, *(f"{attribute}: {value}" for attribute, value in differing.items()), ""]))
    write_private(data / "first.ldif", "".join(entries))


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(8)
    digest = hashlib.sha1(password.encode() + salt, usedforsecurity=False).digest()  # what every slapd understands
    return "{SSHA}" + base64.b64encode(digest + salt).decode()


def _own(data: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        for path in (data, *data.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)


def _load(data: Path, user: pwd.struct_passwd | None) -> None:
    """Put the first entries into the database."""
    argv = [_slapd(), "-Tadd", "-q", "-f", str(data / "slapd.conf"), "-b", _BASE, "-l", str(data / "first.ldif")]
    made = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", **drop(user))
    (data / "first.ldif").unlink()
    if made.returncode != 0:
        raise LabError(f"slapadd failed: {made.stderr.strip()[-500:]}")


def _slapd() -> str:
    """Return the server's program.

    Raises:
        LabError: there is none.
    """
    found = shutil.which("slapd", path=_SBIN)
    if found is None:
        raise LabError("no OpenLDAP server found: apt-get install slapd")
    return found


def _run(data: Path, log_path: Path, user: pwd.struct_passwd | None) -> tuple[int, int, Process]:
    """Start the server on free ports and wait until it answers."""
    for _ in range(_PORT_ATTEMPTS):
        port, secure_port = free_port(), free_port()
        urls = f"ldap://127.0.0.1:{port} ldaps://127.0.0.1:{secure_port}"
        # -d keeps it in the foreground, so that the pid we remember is the server's
        process = spawn([_slapd(), "-f", str(data / "slapd.conf"), "-h", urls, "-d", "stats"], log_path, user=user)
        if process.listens(secure_port, port, seconds=_START_SECONDS):
            return port, secure_port, process
    raise LabError(f"OpenLDAP did not start: see {log_path}")


def stop(folder: Path) -> None:
    """Stop the directory whose state the folder holds and remove it; harmless when there is none."""
    state = end(folder, "openldap")
    if state is not None:
        data = Path(state["data"])
        shutil.rmtree(data, ignore_errors=True)
        for name in ("openldap.log", "openldap-ca.pem"):
            (data.parent / name).unlink(missing_ok=True)
        if data.parent != folder.resolve():  # a folder that place() made
            shutil.rmtree(data.parent, ignore_errors=True)
