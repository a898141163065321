"""Discovery of a local network: scan, recognise, log in with what was given, list accounts, and say what was not seen."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import structlog

from connectors.base import Capability, Connector, Credential, Deadline, Service, Target
from pam_jobs.crypto import aes
from pam_jobs.errors import (
    AuthRejected,
    EpochConflict,
    InvalidInput,
    LeaseLost,
    Locked,
    NotFound,
    PamJobsError,
    TargetError,
    VaultUnavailable,
)
from pam_jobs.jobs import wire
from pam_jobs.jobs.wire import Status
from pam_jobs.records.portmap import STANDARD_PORTS, PortMapping
from workers.breaker import TargetBusy
from workers.chain import mapping_of, options_of, target_of
from workers.findings import Findings
from workers.lease import GatewayStopping, Lease
from workers.outcome import Outcome, outcome_of, sealed_detail
from workers.ports import JobPort, Ports, VaultRecord
from workers.scan import addresses_of, scan
from workers.service_list import list_services
from workers.timings import Timings
from workers.values import Value

__all__ = ["run_discovery"]

_log = structlog.get_logger(__name__)

_AT_A_TIME: Final = 16
_LOOK_SECONDS: Final = 20.0
_MOST_REFUSALS: Final = 3  # of one account
_KINDS: Final = {
    "ssh": "machines", "winrm": "machines", "postgresql": "databases", "mysql": "databases", "mariadb": "databases",
    "mongodb": "databases", "redis": "databases", "rabbitmq": "databases",
    "ldap": "directories", "ldaps": "directories",
}  # fmt: skip
_STANDARD: Final = {port: label for port, label in STANDARD_PORTS.items() if label in _KINDS}


def run_discovery(claim: wire.Claim, job: JobPort, lease: Lease, ports: Ports, timings: Timings) -> Status | None:
    """Do a discovery job and report it.

    Returns:
        The status that was reported; None when the job was given back.

    Raises:
        LeaseLost, EpochConflict: another attempt has it.
    """
    run = _Run(claim, lease, ports, timings)
    try:
        outcome = run.services(job) if claim.parameters.get("services") is True else run.look(job)
    except (LeaseLost, EpochConflict):
        raise
    except (VaultUnavailable, GatewayStopping, TargetBusy) as error:
        with suppress(VaultUnavailable):
            job.release(error.code)
        return None
    except PamJobsError as error:
        outcome = outcome_of(error, may_be_applied=False)
    except Exception as error:  # noqa: BLE001 - the edge of the job
        _log.error("discovery_failed_inside", error=type(error).__name__)
        outcome = outcome_of(error, may_be_applied=False)
    detail = sealed_detail(outcome, run.configuration.key, None) if run.configuration else None
    job.report(
        job.new_report(
            status=outcome.status,
            effect=outcome.effect.value,
            cause=outcome.cause,
            timings=timings.result(),
            detail=detail,
        )
    )
    return outcome.status


class _Run:
    """One look at a network."""

    def __init__(self, claim: wire.Claim, lease: Lease, ports: Ports, timings: Timings) -> None:
        self._claim = claim
        self._lease = lease
        self._ports = ports
        self._timings = timings
        self._deadline = Deadline(ports.settings.discovery_seconds)
        self._refusals: Counter[str] = Counter()
        self._options: dict[str, str] = {}  # how a server is checked, from the records
        self.configuration: VaultRecord | None = None

    def look(self, job: JobPort) -> Outcome:
        """Find what is there, upload it sealed, and say how it went."""
        claim, ports = self._claim, self._ports
        started_at = ports.clock.now()
        with self._timings.of("load"):
            configuration, resource, credentials, missing = self._load()
        findings = Findings(configuration_uid=claim.configuration_uid)
        self._options = options_of(*(found.record for found in (configuration, resource) if found is not None))
        for uid in missing:
            findings.unseen(f"credential {uid}", "not_permitted", "the gateway cannot read this record")
        cidr, addresses, mapping = self._scope(configuration, resource)
        labels = self._labels(mapping, resource, configuration, findings)
        with self._timings.of("scan"):
            found = scan(addresses, sorted(labels), between=self._between)
        for count, cause in ((found.silent, "timed_out"), (found.closed, "refused"), (found.failed, "unreachable")):
            if count:
                findings.unseen(f"{count} ports", cause, "nothing answered there" if cause != "refused" else "closed")
        if found.skipped:
            findings.unseen(f"{found.skipped} ports", "timed_out", "the time limit of the discovery came first")
        with self._timings.of("look"):
            self._examine(found.open, labels, credentials, findings)
        content = {
            "objects": list(findings.objects.values()),
            "coverage": findings.coverage,
            "scope": {"cidr": cidr, "addresses": len(addresses), "ports": sorted(labels)},
            "started_at": started_at.isoformat(),
            "finished_at": ports.clock.now().isoformat(),
        }
        self._lease.check()
        counts = findings.counts()
        job.upload_discovery(aes.encrypt(json.dumps(content).encode(), configuration.key), counts)
        told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        return Outcome(status=Status.OK, message=f"found {told}", extra={"counts": counts})

    def services(self, job: JobPort) -> Outcome:
        """List what runs as whom on the one machine, upload it sealed, and say how it went."""
        with self._timings.of("load"):
            configuration, machine, credentials, _missing = self._load()
        admin = credentials.get(self._claim.admin_uid or "")
        with self._timings.of("look"):
            found = list_services(
                self._ports, configuration, machine, admin, self._deadline, job=job, lease=self._lease
            )
        self._lease.check()
        counts = {"services": len(found["services"]), "unseen": len(found["coverage"])}
        job.upload_discovery(aes.encrypt(json.dumps(found).encode(), configuration.key), counts)
        told = f"found {counts['services']} services, tasks and pools"
        return Outcome(status=Status.OK, message=told, extra={"counts": counts})

    def _between(self) -> bool:
        self._lease.check()
        return not self._deadline.is_over

    def _load(self) -> tuple[VaultRecord, VaultRecord | None, dict[str, VaultRecord], list[str]]:
        claim = self._claim
        listed = claim.parameters.get("credential_uids")
        wanted = [str(uid) for uid in listed] if isinstance(listed, list) else []
        if claim.admin_uid:
            wanted.insert(0, claim.admin_uid)
        known = [claim.configuration_uid, *([claim.resource_uid] if claim.resource_uid else []), *wanted]
        records = self._ports.vault.fetch(known)
        if claim.configuration_uid not in records:
            raise NotFound(
                "the gateway cannot read the configuration's record",
                remedy="share its folder with the gateway's application",
            )
        self.configuration = configuration = records[claim.configuration_uid]
        domain_admin = configuration.record.resources().admin_credential_uid
        if domain_admin and domain_admin not in wanted:
            records |= self._ports.vault.fetch([domain_admin])
            wanted.append(domain_admin)
        resource = records.get(claim.resource_uid) if claim.resource_uid else None
        if claim.resource_uid and resource is None:
            raise NotFound(
                "the gateway cannot read the resource's record",
                remedy="share its folder with the gateway's application",
            )
        wanted = list(dict.fromkeys(wanted))
        credentials = {uid: records[uid] for uid in wanted if uid in records}
        return configuration, resource, credentials, [uid for uid in wanted if uid not in records]

    def _scope(self, configuration: VaultRecord, resource: VaultRecord | None) -> tuple[str, list[str], PortMapping]:
        mapping = mapping_of(configuration.record)
        if resource is not None:
            host = resource.record.host
            if host is None:
                raise InvalidInput("the resource has no host name", remedy="set the host of the resource's record")
            return host, _resolved(host), mapping
        cidr = str(configuration.record.field("text", "networkCIDR") or "")
        return cidr, addresses_of(cidr), mapping

    def _labels(
        self,
        mapping: PortMapping,
        resource: VaultRecord | None,
        configuration: VaultRecord,
        findings: Findings,
    ) -> dict[int, str]:
        """Return the ports to try, by what they are expected to speak."""
        if resource is not None:
            target = target_of(resource.record, configuration.record)
            return {target.port: target.protocol}
        spoken = {protocol for connector in self._ports.recognisers() for protocol in connector.protocols}
        labels = {port: label for port, label in {**_STANDARD, **mapping.labels}.items() if label in spoken}
        for port, label in mapping.labels.items():
            if label not in spoken:
                findings.unseen(f"port {port}={label}", "not_supported", "no connector looks for this protocol")
        skipped = {"machines": "skip_machines", "databases": "skip_databases"}
        return {
            port: label
            for port, label in labels.items()
            if self._claim.parameters.get(skipped.get(_KINDS.get(label, ""), "")) is not True
        }

    def _examine(
        self,
        places: list[tuple[str, int]],
        labels: Mapping[int, str],
        credentials: Mapping[str, VaultRecord],
        findings: Findings,
    ) -> None:
        """Recognise what listens, several at a time; log in one after the other, so that refusals are counted."""
        with ThreadPoolExecutor(max_workers=_AT_A_TIME, thread_name_prefix="recognise") as pool:
            recognised = pool.map(lambda place: self._recognise(place[0], place[1], labels[place[1]]), sorted(places))
            for (host, port), known in zip(sorted(places), recognised, strict=True):
                if not self._between():
                    findings.unseen(f"{host}:{port}", "timed_out", "the time limit of the discovery came first")
                    continue
                if known is None:
                    findings.unseen(f"{host}:{port}", "not_parsed", "something listens there that is not recognised")
                    continue
                connector, service = known
                add = {"machines": findings.machine, "directories": findings.directory}.get(
                    _KINDS.get(service.protocol, ""), findings.database
                )
                target = Target(
                    host=host, port=port, protocol=service.protocol, options=self._options, **_trust(service)
                )
                self._enter(add(host, port, service), target, connector, credentials, findings)

    def _recognise(self, host: str, port: int, label: str) -> tuple[Connector, Service] | None:
        connectors = sorted(self._ports.recognisers(), key=lambda each: label not in each.protocols)
        for connector in connectors:
            if self._deadline.is_over:
                return None
            service = connector.recognise(host, port, Deadline(_LOOK_SECONDS / 2))
            if service is not None:
                return connector, service
        return None

    def _enter(
        self,
        uid: str,
        target: Target,
        connector: Connector,
        credentials: Mapping[str, VaultRecord],
        findings: Findings,
    ) -> None:
        """Log in with the first credential that is taken, and list the accounts."""
        place = f"{target.host}:{target.port}"
        if Capability.DISCOVER not in connector.capabilities:
            findings.unseen(place, "not_supported", f"{connector.name} lists no accounts")
            return
        last = ("not_permitted", "no credential was given for it")
        for record_uid, credential in _usable(credentials):
            account = _account(target.host, credential.login)
            if self._refusals[account] >= _MOST_REFUSALS:
                last = ("refused", "the accounts given were refused too often to try once more")
                continue
            self._lease.check()
            try:
                with connector.open(target, credential, Deadline(_LOOK_SECONDS)) as session:
                    findings.opened(uid, record_uid)
                    known = {credential.login: record_uid}
                    left_out = sum(not findings.take(uid, seen, known) for seen in session.discover())
            except (AuthRejected, Locked) as error:
                self._refusals[account] += 1
                last = ("refused", error.message)
                continue
            except TargetError as error:
                last = (error.cause, error.message)
                break
            if left_out:
                findings.unseen(f"{left_out} system accounts of {place}", "not_listed", "nobody can log in to them")
            return
        findings.unseen(place, *last)


def _usable(credentials: Mapping[str, VaultRecord]) -> Iterator[tuple[str, Credential]]:
    for uid, found in credentials.items():
        value = Value.of_record(found.record)
        if found.record.login and not value.is_empty:
            yield (
                uid,
                Credential(
                    login=found.record.login,
                    password=value.password,
                    private_key=value.private_key,
                    distinguished_name=found.record.field("text", "distinguishedName"),
                    database=found.record.field("text", "connectDatabase"),
                ),
            )


def _account(host: str, login: str) -> str:
    """Return whose lock-out counter a refused login moves: a directory's account is one on every machine."""
    return login.casefold() if "@" in login or "\\" in login else f"{host}/{login}"


def _trust(service: Service) -> dict[str, Any]:
    """Return what pins the server to the one that was recognised a moment ago."""
    key = service.facts.get("host_key")
    if service.protocol == "winrm":
        return {"use_ssl": service.facts.get("tls") == "yes"}
    return {"host_keys": (key,)} if key else {}


def _resolved(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise InvalidInput(
            f"the host {host} is not known", remedy="correct the host of the resource's record"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:1]
