"""Discovery: its jobs, its sealed results, and how results become linked records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pam_jobs.client.folders import Folder, Folders
from pam_jobs.client.http import RouterClient
from pam_jobs.client.pam import Configuration, Pam, RotationChange
from pam_jobs.client.records import Records, VaultRecord
from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64
from pam_jobs.errors import NotFound, PamJobsError, StateError
from pam_jobs.records.record import Record
from pam_jobs.records.types import TYPES, is_resource, new_record

__all__ = ["Answer", "Choice", "Discovery", "Processed", "Proposal"]

_ORDER = {"directories": 0, "machines": 1, "databases": 2, "users": 3}


class Choice(StrEnum):
    """What to do with something found."""

    ADD = "add"
    SKIP = "skip"
    QUIT = "quit"  # nothing is written, not even what was added before


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A decision, and where the record goes."""

    choice: Choice
    folder: Folder | None = None  # None: the configuration's
    title: str | None = None  # None: as found


@dataclass(kw_only=True)
class Proposal:
    """Something found, and what is known of it in the vault."""

    object: dict[str, Any]
    parent: Proposal | None
    existing: VaultRecord | None
    record: Record  # as it would be added
    record_uid: str | None = None  # once it is in the vault

    @property
    def kind(self) -> str:
        """What it is: machines, databases, directories, users."""
        return str(self.object["object_type_value"])

    @property
    def admin_uid(self) -> str | None:
        """The record that discovery logged in with."""
        access = self.object.get("access_user") or {}
        return access.get("record_uid") if isinstance(access, dict) else None


@dataclass(kw_only=True)
class Processed:
    """What processing did, or would do."""

    added: list[dict[str, Any]] = field(default_factory=list)
    existing: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)  # with the reason
    warnings: list[str] = field(default_factory=list)
    coverage: list[dict[str, Any]] = field(default_factory=list)
    is_preview: bool = False


class Discovery:
    """Discovery jobs and their results."""

    def __init__(self, router: RouterClient, records: Records, pam: Pam, folders: Folders) -> None:
        self._router = router
        self._records = records
        self._pam = pam
        self._folders = folders

    def start(self, configuration_uid: str, resource_uid: str | None, parameters: dict[str, Any]) -> dict[str, Any]:
        """Start a discovery and return its job; one runs at a time for each configuration."""
        body = {"configuration_uid": configuration_uid, "resource_uid": resource_uid, "parameters": parameters}
        job: dict[str, Any] = self._router.post("/api/v1/discovery", body)
        return job

    def jobs(self, configuration_uid: str | None = None) -> list[dict[str, Any]]:
        """Return the discovery jobs, newest first."""
        answer = self._router.get("/api/v1/discovery", configuration_uid=configuration_uid)
        rows: list[dict[str, Any]] = answer.get("jobs") or answer.get("discovery") or []
        return rows

    def remove(self, job_uid: str) -> None:
        """Cancel a running discovery, or forget a finished one with its result."""
        self._router.delete(f"/api/v1/discovery/{job_uid}")

    def result(self, job_uid: str) -> tuple[Configuration, dict[str, Any], dict[str, Any]]:
        """Return the configuration, the decrypted content, and the stored row of a finished discovery.

        Raises:
            NotFound: there is no such job.
            StateError: it has no result.
        """
        job = self._router.get(f"/api/v1/jobs/{job_uid}")
        try:
            row = self._router.get(f"/api/v1/discovery/{job_uid}/result")
        except NotFound:
            raise StateError(
                f"the discovery {job_uid} has no result; it is {job['state']}",
                remedy="wait until it has succeeded, see `pam action discover status`",
            ) from None
        configuration = self._pam.find_configuration(job["configuration_uid"])
        key = configuration.require_record().key
        return configuration, json.loads(aes.decrypt(from_base64(row["content"]), key)), row

    def process(
        self,
        job_uid: str,
        decide: Callable[[Proposal], Answer],
        *,
        folder: Folder | None = None,
        preview: bool = False,
    ) -> Processed:
        """Turn what was found into records, links and rotation settings; nothing is written before all is decided.

        Args:
            job_uid: of the finished discovery.
            decide: asked for each new object whose parent is in the vault or about to be.
            folder: of new records; None: the configuration's.
            preview: write nothing.
        """
        configuration, content, row = self.result(job_uid)
        if row.get("processed_at") and not preview:
            raise StateError(f"the discovery {job_uid} has been processed", remedy="start a new one")
        target = folder or self._folders.find(configuration.require_record().folder_uid)
        done = Processed(is_preview=preview, coverage=list(content.get("coverage") or []))
        chosen: list[tuple[Proposal, Answer]] = []
        for proposal in self._proposals(configuration, content.get("objects") or []):
            answer = self._settle(proposal, decide, done, {id(entry) for entry, _ in chosen})
            if answer is not None and answer.choice is Choice.QUIT:
                done.added.clear()
                done.warnings.append("stopped: nothing was written")
                return done
            if answer is not None:
                chosen.append((proposal, answer))
        if not preview:
            self._link_parents([proposal for proposal, _ in chosen], configuration, done)
            for proposal, answer in chosen:
                self._write(proposal, answer, answer.folder or target, configuration, done)
            self._router.post(f"/api/v1/discovery/{job_uid}/processed")
        return done

    def _link_parents(self, chosen: list[Proposal], configuration: Configuration, done: Processed) -> None:
        """Link the resources that are in the vault already but in no configuration, for the users that come to them."""
        linked = {row["record_uid"] for row in self._pam.resources()}
        parents = {p.parent.existing.uid: p.parent for p in chosen if p.parent is not None and p.parent.existing}
        for uid, parent in parents.items():
            if uid in linked:
                continue
            try:
                self._pam.link_resource(uid, configuration.uid, parent.admin_uid)
            except PamJobsError as error:
                done.warnings.append(f"{parent.record.title}: {error.sentence()}")

    def _settle(
        self, proposal: Proposal, decide: Callable[[Proposal], Answer], done: Processed, chosen: set[int]
    ) -> Answer | None:
        """Return the decision to add, None when there is nothing to add."""
        line = _line(proposal)
        if proposal.existing is not None:
            proposal.record_uid = proposal.existing.uid
            done.existing.append({**line, "record_uid": proposal.existing.uid})
            return None
        parent = proposal.parent
        if parent is not None and parent.record_uid is None and id(parent) not in chosen:
            done.skipped.append({**line, "reason": f"{parent.record.title} has no record"})
            return None
        answer = decide(proposal)
        if answer.choice is Choice.SKIP:
            done.skipped.append({**line, "reason": "skipped"})
            return None
        if answer.choice is Choice.ADD:
            done.added.append(line)
        return answer

    def _write(
        self, proposal: Proposal, answer: Answer, folder: Folder, configuration: Configuration, done: Processed
    ) -> None:
        record = proposal.record.with_title(answer.title) if answer.title else proposal.record
        uid = self._records.add(record, folder)
        proposal.record_uid = uid
        line = next(line for line in done.added if line["object_uid"] == proposal.object["uid"])
        line["record_uid"] = uid
        line["title"] = record.title
        try:
            if is_resource(record.type):
                self._pam.link_resource(uid, configuration.uid, proposal.admin_uid)
            elif proposal.parent is not None and proposal.parent.record_uid is not None:
                stored = self._records.get(uid)
                self._pam.set_rotation(stored, _on_demand(configuration.uid, proposal.parent.record_uid))
        except PamJobsError as error:  # the record stands; what is missing is said and can be set by hand
            done.warnings.append(f"{record.title}: {error.sentence()}")

    def _proposals(self, configuration: Configuration, objects: Iterable[dict[str, Any]]) -> list[Proposal]:
        """Return what was found in the order of presentation, matched with the records there are."""
        known = _Known.of(self._records.list(), self._pam, configuration)
        proposals: dict[str, Proposal] = {}
        for entry in sorted(objects, key=lambda entry: _ORDER.get(str(entry.get("object_type_value")), 9)):
            if entry.get("record_type") not in TYPES or entry.get("object_type_value") not in _ORDER:
                continue  # the configuration itself, or what a newer gateway finds
            parent = proposals.get(str(entry.get("parent_uid")))
            record = _record(entry)
            existing = known.match(entry, record, parent)
            proposals[str(entry["uid"])] = Proposal(object=entry, parent=parent, existing=existing, record=record)
        return list(proposals.values())


@dataclass(kw_only=True)
class _Known:
    """What the vault has already, by what tells duplicates."""

    resources: dict[str, list[VaultRecord]]  # host for machines, host:port for the others; the best match first
    users: dict[tuple[str, str], VaultRecord]  # (resource uid, login or dn)

    @classmethod
    def of(cls, records: list[VaultRecord], pam: Pam, configuration: Configuration) -> _Known:
        linked = {row["record_uid"]: row.get("resource_uid") for row in pam.rotations()}
        by_uid = {entry.uid: entry for entry in records}
        links = {link["record_uid"]: link for link in pam.resources()}
        resources: dict[str, list[VaultRecord]] = {}
        users: dict[tuple[str, str], VaultRecord] = {}
        for entry in records:
            if is_resource(entry.type):
                # The same address in another network is another machine, so what serves another configuration is not it.
                owner = links.get(entry.uid, {}).get("configuration_uid")
                if owner == configuration.uid:
                    resources.setdefault(_address(entry.record), []).insert(0, entry)
                elif owner is None and entry.root_uid == configuration.require_record().root_uid:
                    resources.setdefault(_address(entry.record), []).append(entry)
            elif entry.type == "pamUser" and linked.get(entry.uid):
                for name in _names(entry.record):
                    users[str(linked[entry.uid]), name] = entry
        for link in links.values():  # an admin lives on the resource it administers unless it is set elsewhere
            admin = by_uid.get(str(link.get("admin_uid")))
            if link.get("configuration_uid") == configuration.uid and admin is not None and not linked.get(admin.uid):
                for name in _names(admin.record):
                    users.setdefault((link["record_uid"], name), admin)
        return cls(resources=resources, users=users)

    def match(self, entry: dict[str, Any], record: Record, parent: Proposal | None) -> VaultRecord | None:
        if entry["object_type_value"] != "users":
            return next(iter(self.resources.get(_address(record), [])), None)
        if parent is None or parent.existing is None:
            return None
        # One server may have several records; its user is in the vault when it is set up on any of them.
        places = [entry.uid for entry in self.resources.get(_address(parent.record), [])]
        keys = [(uid, name) for uid in places for name in _names(record)]
        return next((self.users[key] for key in keys if key in self.users), None)


def _address(record: Record) -> str:
    host = (record.host or "").casefold()
    if record.type == "pamMachine":
        return f"machine {host}"
    return f"{host}:{record.port or ''}"


def _names(record: Record) -> list[str]:
    dn = record.field("text", "distinguishedName")
    return [name.casefold() for name in (record.login, dn) if isinstance(name, str) and name]


def _record(entry: dict[str, Any]) -> Record:
    """Return the record that the object would become."""
    title = str(entry.get("title") or entry.get("name") or entry.get("id"))
    record = new_record(str(entry["record_type"]), title, complete=False)
    for part in entry.get("fields") or []:
        if part.get("value"):
            record = record.set_field(str(part["type"]), list(part["value"]), part.get("label") or None)
    return record.with_notes(str(entry["description"])) if entry.get("description") else record


def _line(proposal: Proposal) -> dict[str, Any]:
    return {
        "object_uid": proposal.object["uid"],
        "kind": proposal.kind,
        "record_type": proposal.record.type,
        "title": proposal.record.title,
        "parent": proposal.parent.record.title if proposal.parent else None,
    }


def _on_demand(configuration_uid: str, resource_uid: str) -> RotationChange:
    return RotationChange(
        configuration_uid=configuration_uid, resource_uid=resource_uid, admin_uid=None, profile="general",
        schedule=[], inherits_schedule=False, complexity=None, disabled=False, revision=None,
    )  # fmt: skip
