"""What runs on which machine as which user; the names are sealed here by the user record's key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pam_jobs.client.http import RouterClient
from pam_jobs.client.pam import Pam
from pam_jobs.client.records import Records, VaultRecord
from pam_jobs.crypto import aes
from pam_jobs.crypto.blob import from_base64, to_base64
from pam_jobs.errors import Conflict, InvalidInput, NotFound, Unsupported
from pam_jobs.records.run_as import names_on
from pam_jobs.records.services import ServiceKind, ServiceNames

__all__ = ["Mapping", "Services"]

_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """What runs on one machine as one user."""

    user_uid: str
    machine_uid: str
    configuration_uid: str
    names: ServiceNames | None  # None: the user record is not the caller's
    revision: int
    user_enabled: bool
    machine_enabled: bool


class Services:
    """The mapping of users to machines and names."""

    def __init__(self, router: RouterClient, records: Records, pam: Pam) -> None:
        self._router = router
        self._records = records
        self._pam = pam

    def list(self, configuration_uid: str | None = None) -> list[Mapping]:
        """Return every mapping, opened where the user record is the caller's."""
        keys = {entry.uid: entry.key for entry in self._records.list()}
        return list(self._mappings(keys, configuration_uid))

    def change(
        self, user: VaultRecord, machine_uid: str, change: Callable[[ServiceNames], ServiceNames]
    ) -> ServiceNames:
        """Change what runs on the machine as the user; made again where somebody else was first.

        Args:
            user: the user record.
            machine_uid: a resource.
            change: returns the changed names; may be called several times.

        Returns:
            What is mapped now; without names the mapping is gone.

        Raises:
            Conflict: others kept changing it.
        """
        for attempt in range(_TRIES):
            standing = self._one(user, machine_uid)
            now = standing.names if standing is not None and standing.names is not None else ServiceNames()
            wanted = change(now)
            if wanted == now:
                return now
            path = f"/api/v1/services/{user.uid}/{machine_uid}"
            if not wanted.entries:
                self._router.delete(path)
                return wanted
            revision = standing.revision if standing is not None else 0
            try:
                self._router.put(path, {"names": to_base64(wanted.seal(user.key)), "revision": revision})
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
            else:
                return wanted
        raise Conflict

    def enable_machine(self, machine_uid: str, *, enabled: bool) -> None:
        """Let rotations update what runs on the machine, or keep them from it."""
        self._router.put(f"/api/v1/resources/{machine_uid}/services", {"enabled": enabled})

    def enable_user(self, user_uid: str, *, enabled: bool) -> None:
        """Let rotations of the user update what runs as it, or keep them from it."""
        self._router.put(f"/api/v1/rotation/{user_uid}/services", {"enabled": enabled})

    def look(self, machine: VaultRecord, configuration_uid: str) -> dict[str, Any]:
        """Ask the gateway what runs as whom on the machine, and return the job."""
        body = {
            "configuration_uid": configuration_uid, "resource_uid": machine.uid, "parameters": {"services": True},
        }  # fmt: skip
        job: dict[str, Any] = self._router.post("/api/v1/discovery", body)
        return job

    def take(self, job_uid: str, machine: VaultRecord, configuration: VaultRecord) -> dict[str, Any]:
        """Map what the gateway found to the users that are rotated; what discovery saw before is replaced.

        Returns:
            ``mapped`` (user, type, name), ``unknown`` (what runs as nobody in the vault) and ``coverage``.
        """
        row = self._router.get(f"/api/v1/discovery/{job_uid}/result")
        content = json.loads(aes.decrypt(from_base64(row["content"]), configuration.key))
        found = [(ServiceKind(each["type"]), each["name"], each["user"]) for each in content["services"]]
        mapped: list[dict[str, str]] = []
        claimed: set[str] = set()
        before = {each.user_uid for each in self.list() if each.machine_uid == machine.uid}
        for user, names in self._users_on(machine):
            mine = [(kind, name) for kind, name, shown in found if shown.casefold() in names]
            claimed |= {shown for _, _, shown in found if shown.casefold() in names}
            if mine or user.uid in before:
                self.change(user, machine.uid, lambda now, mine=mine: now.with_discovered(mine))  # type: ignore[misc]
            mapped += [{"user": user.title, "user_uid": user.uid, "type": kind, "name": name} for kind, name in mine]
        unknown = [{"type": kind, "name": name, "user": shown} for kind, name, shown in found if shown not in claimed]
        self._router.post(f"/api/v1/discovery/{job_uid}/processed")
        return {"mapped": mapped, "unknown": unknown, "coverage": content["coverage"]}

    def _users_on(self, machine: VaultRecord) -> Iterator[tuple[VaultRecord, set[str]]]:
        """Yield the rotated users that something on the machine may run as, with how it may show them."""
        records = {entry.uid: entry for entry in self._records.list()}
        for row in self._pam.rotations():
            user = records.get(row["record_uid"])
            place = records.get(row["resource_uid"] or "")
            if user is None:
                continue
            try:
                names = names_on(
                    machine.record, user.record, place.record if place else None,
                    is_here=row["resource_uid"] == machine.uid,
                )  # fmt: skip
            except (InvalidInput, Unsupported):
                continue
            yield user, {name.casefold() for name in names}

    def _one(self, user: VaultRecord, machine_uid: str) -> Mapping | None:
        found = self._mappings({user.uid: user.key}, None)
        return next((each for each in found if (each.user_uid, each.machine_uid) == (user.uid, machine_uid)), None)

    def _mappings(self, keys: dict[str, bytes], configuration_uid: str | None) -> Iterator[Mapping]:
        answer = self._router.get("/api/v1/services", configuration_uid=configuration_uid)
        for row in answer["services"]:
            key = keys.get(row["user_uid"])
            yield Mapping(
                user_uid=row["user_uid"],
                machine_uid=row["machine_uid"],
                configuration_uid=row["configuration_uid"],
                names=ServiceNames.open(from_base64(row["names"]), key) if key is not None else None,
                revision=row["revision"],
                user_enabled=row["user_uid"] not in answer["disabled_users"],
                machine_enabled=row["machine_uid"] not in answer["disabled_machines"],
            )

    def configuration_of(self, machine: VaultRecord) -> str:
        """Return the configuration that the machine belongs to.

        Raises:
            NotFound: it belongs to none.
        """
        for link in self._pam.resources():
            if link["record_uid"] == machine.uid:
                uid: str = link["configuration_uid"]
                return uid
        raise NotFound(
            f"{machine.title} is not a resource of any configuration",
            remedy="add it with `pam rotation edit --resource`, or by discovery",
        )
