"""Real targets of our own, without Docker: a PostgreSQL cluster and an SSH server, for the demo, tests and benchmarks."""

from deploy.lab.packages import install_with_apt, missing
from deploy.lab.postgres import PostgresServer
from deploy.lab.processes import LabError
from deploy.lab.sshd import SshServer

__all__ = ["LabError", "PostgresServer", "SshServer", "install_with_apt", "missing"]
