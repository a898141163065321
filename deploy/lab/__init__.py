"""Real targets of our own, without Docker: PostgreSQL, SSH and OpenLDAP servers, for the demo, tests and benchmarks."""

from deploy.lab.openldap import LdapServer
from deploy.lab.packages import install_with_apt, missing
from deploy.lab.postgres import PostgresServer
from deploy.lab.processes import LabError
from deploy.lab.sshd import SshServer

__all__ = ["LabError", "LdapServer", "PostgresServer", "SshServer", "install_with_apt", "missing"]
