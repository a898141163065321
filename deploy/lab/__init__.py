"""Real targets of our own, without Docker, for the demo, tests and benchmarks: databases, SSH, directories."""

from deploy.lab.emulated import EmulatedServer
from deploy.lab.mariadb import MariadbServer
from deploy.lab.openldap import LdapServer
from deploy.lab.packages import install_with_apt, missing
from deploy.lab.postgres import PostgresServer
from deploy.lab.processes import LabError
from deploy.lab.samba import SambaServer
from deploy.lab.sshd import SshServer

__all__ = [
    "EmulatedServer",
    "LabError",
    "LdapServer",
    "MariadbServer",
    "PostgresServer",
    "SambaServer",
    "SshServer",
    "install_with_apt",
    "missing",
]
