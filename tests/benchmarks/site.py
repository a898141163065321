"""The whole system for a benchmark: embedded mode in a folder of its own, with roles of one PostgreSQL to rotate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pam_jobs.client.folders import Folder
from pam_jobs.client.pam import RotationChange
from pam_jobs.client.profile import Profile
from pam_jobs.client.session import connect
from pam_jobs.client.vault import VaultClient
from pam_jobs.records.types import new_record
from tests.benchmarks.bare import BareTarget, Figures
from tests.benchmarks.usage import pss_megabytes

__all__ = ["Site", "memory_of", "processes_of"]

_SETTLE_SECONDS = 600.0


@dataclass
class Site:
    """One running system."""

    folder: Path
    concurrency: int
    records: list[str]

    @classmethod
    def start(cls, folder: Path, concurrency: int, targets: Sequence[BareTarget], roles: dict[str, str]) -> Site:
        """Bring the system up and make a record for each role.

        Args:
            folder: becomes the data folder.
            concurrency: jobs at a time in the gateway.
            targets: the servers; the roles go to them in turn.
            roles: names and present passwords.
        """
        site = cls.bare(folder, concurrency)
        with site.client() as client:
            site.records = _prepare(client, targets, roles)
        return site

    @classmethod
    def bare(cls, folder: Path, concurrency: int) -> Site:
        """Bring the system up without any record."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAM_")}
        environment |= {"PAM_DATA_DIR": str(folder), "PAM_GATEWAY_CONCURRENCY": str(concurrency)}
        site = cls(folder=folder, concurrency=concurrency, records=[])
        site.pam("up", "--detach", environment=environment)
        return site

    def pam(self, *words: str, environment: dict[str, str] | None = None) -> str:
        """Run the command line and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "pam_jobs.cli.main", *words],
            env=environment or {**os.environ, "PAM_DATA_DIR": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pam {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def client(self) -> VaultClient:
        """Return the operator's client of this system."""
        environment = {"PAM_DATA_DIR": str(self.folder)}
        router, session = connect(Profile.load(environment), environment=environment)
        return VaultClient(router, session)

    def rotate(self, records: Sequence[str]) -> tuple[Figures, dict[str, float]]:
        """Submit a job for every record at once; return the gateway's figures and where its time went.

        The clock starts when the first job is claimed and ends with the last promotion; a job's latency is from its
        claim to its end. Time in the queue is not counted, so that 1 and 8 at a time compare.
        """
        with self.client() as client:
            jobs = [answer["job"]["uid"] for answer in client.jobs.submit_all("rotate", records)]
            client.jobs.wait(jobs[-1], seconds=_SETTLE_SECONDS)  # one poller: watching each job would slow them down
            done = [client.jobs.wait(uid, seconds=_SETTLE_SECONDS) for uid in jobs]
        failed = [job["cause"] for job in done if job["status"] != "ok"]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(done)} rotations failed: {sorted(set(map(str, failed)))}")
        begin = min(_at(job, "started_at") for job in done)
        seconds = (max(_at(job, "finished_at") for job in done) - begin).total_seconds()
        latencies = [(_at(job, "finished_at") - _at(job, "started_at")).total_seconds() * 1000 for job in done]
        name = f"pam-jobs, {self.concurrency} at a time"
        return Figures(name=name, workers=self.concurrency, seconds=seconds, latencies_ms=latencies), _mean_steps(done)

    def submit(self, records: Sequence[str]) -> None:
        """Submit a job for every record, and wait for none."""
        with self.client() as client:
            client.jobs.submit_all("rotate", records)

    def settle(self, records: Sequence[str]) -> None:
        """Wait until nobody works on the records."""
        with self.client() as client:
            for uid in records:
                client.jobs.wait(client.jobs.list(record_uid=uid, limit=1)[0]["uid"], seconds=_SETTLE_SECONDS)

    def on_demand(self, uid: str) -> float:
        """Return the milliseconds from the submission of one job to its known end, as an operator waits for it."""
        with self.client() as client:
            job = client.jobs.wait(client.jobs.submit("rotate", uid)["uid"], seconds=_SETTLE_SECONDS)
        return (_at(job, "finished_at") - _at(job, "created_at")).total_seconds() * 1000

    def stop(self) -> None:
        """Bring the system down."""
        self.pam("down")


def _at(job: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job[name])


def _mean_steps(jobs: list[dict[str, Any]]) -> dict[str, float]:
    steps: dict[str, list[float]] = {}
    for job in jobs:
        for name, milliseconds in job["timings"].items():
            steps.setdefault(name, []).append(milliseconds)
    return {name: sum(values) / len(jobs) for name, values in steps.items()}


def _prepare(client: VaultClient, targets: Sequence[BareTarget], roles: dict[str, str]) -> list[str]:
    folder = client.folders.find(client.folders.add("Benchmark"))
    client.applications.share(client.applications.find("Embedded"), folder, can_edit=True)
    mapping = "\n".join(f"{target.port}=postgresql" for target in targets)
    network = [("networkId", "benchmark"), ("portMapping", mapping)]
    configuration = client.pam.add_configuration(
        new_record("pamNetworkConfiguration", "Benchmark", network, complete=False),
        folder,
        client.pam.find_gateway("embedded"),
        environment="local",
        schedule=[],
        rotation_enabled=True,
    )
    login = [("login", targets[0].admin), ("password", targets[0].password)]
    admin = client.records.add(new_record("pamUser", "admin", login), folder)
    changes = [_change(client, configuration, admin, target, folder) for target in targets]
    users = {}
    for number, (role, password) in enumerate(roles.items()):
        user = new_record("pamUser", role, [("login", role), ("password", password)])
        users[client.records.add(user, folder)] = changes[number % len(changes)]
    for stored in client.records.list(folder):
        if stored.uid in users:
            client.pam.set_rotation(stored, users[stored.uid])
    return list(users)


def _change(client: VaultClient, configuration: str, admin: str, target: BareTarget, folder: Folder) -> RotationChange:
    """Make the record of a server and return how its roles are rotated."""
    place = [("host", target.host), ("port", str(target.port)), ("databaseType", "postgresql")]
    place += [("useSSL", "true"), ("c.text.ssl_ca", str(target.ca))] if target.ca is not None else []
    database = client.records.add(new_record("pamDatabase", f"server {target.port}", place), folder)
    client.pam.link_resource(database, configuration, admin)
    return RotationChange(
        configuration_uid=configuration,
        resource_uid=database,
        admin_uid=None,
        profile="general",
        schedule=[],
        inherits_schedule=False,
        complexity=None,
        disabled=False,
        revision=None,
    )


def processes_of(site: Site) -> dict[str, int]:
    """Return the system's processes by name."""
    return {
        process["name"]: process["pid"] for process in json.loads(site.pam("status", "--format", "json"))["processes"]
    }


def memory_of(site: Site) -> dict[str, float]:
    """Return the proportional set size of each process of the system in MB."""
    return {name: pss_megabytes(pid) for name, pid in processes_of(site).items()}
