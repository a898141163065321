"""Cisco Meraki: users of a network (splash page, 802.1X, client VPN).

Source: Meraki Dashboard API v1, "Get network meraki auth users" and "Update network meraki auth user". There is no
login to try: the Dashboard's answer is the proof.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

from connectors.base import Preflight
from connectors.saas.plugin import SaasConfigItem, SaasPlugin
from connectors.saas.web import Web, refusal_of
from pam_jobs.errors import NotApplied, PolicyRefused, Unsupported

__all__ = ["MerakiPlugin"]


class MerakiPlugin(SaasPlugin):
    """Sets a network user's password by the Dashboard API."""

    name: ClassVar[str] = "Cisco Meraki"
    summary: ClassVar[str] = "Password of a user of a Meraki network"

    @classmethod
    def config_schema(cls) -> list[SaasConfigItem]:
        """Return the vendor's fields."""
        return [
            SaasConfigItem(id="admin_email", label="Admin Email", desc="whose API key it is; it is not rotated"),
            SaasConfigItem(id="api_key", label="API Key", type="secret", is_secret=True, required=True),
            SaasConfigItem(id="network_id", label="Network ID", required=True),
            SaasConfigItem(
                id="host", label="Webservice Host", type="url", default_value="https://api.meraki.com",
                desc="https://api.meraki.com, or that of your region",
            ),
            SaasConfigItem(id="verify_ssl", label="Verify SSL", type="bool", default_value=True),
        ]  # fmt: skip

    def check(self) -> Preflight:
        """Look the user up."""
        with self._web() as web:
            user = self._user(web)
        if str(user.get("email", "")).casefold() == str(self.get_config("admin_email") or "").casefold():
            raise Unsupported(
                "the user is the owner of the API key, who logs in elsewhere", remedy="name another user of the network"
            )
        return self.limits()

    def change_password(self) -> None:
        """Set the new password."""
        new = self.user.new_password
        if new is None:
            raise NotApplied("a Meraki user has a password only", remedy="store a password in the record")
        with self._web() as web:
            path = f"{self._path}/{quote(str(self._user(web)['id']), safe='')}"
            answer = web.ask("PUT", path, changes=True, json={"password": new.reveal()})
        if answer.is_ok:
            return
        if answer.status == 400 and "assword" in answer.text("errors", 0):
            raise PolicyRefused("Meraki refused the password")
        raise refusal_of(answer)

    @property
    def _path(self) -> str:
        return f"/api/v1/networks/{quote(self.get_config('network_id'), safe='')}/merakiAuthUsers"

    def _user(self, web: Web) -> dict[str, Any]:
        answer = web.ask("GET", self._path)
        if not answer.is_ok:
            raise refusal_of(answer, sent=False)
        wanted = self.user.username.casefold()
        found = [
            user
            for user in answer.json() or []
            if isinstance(user, dict) and wanted in {str(user.get("email", "")).casefold(), str(user.get("id", ""))}
        ]
        if len(found) != 1:
            raise Unsupported(
                f"the Meraki network has {len(found)} such users", remedy="write the user's e-mail address as the login"
            )
        return found[0]

    def _web(self) -> Web:
        headers = {"Authorization": f"Bearer {self.get_config('api_key').reveal()}", "Accept": "application/json"}
        return Web(
            self.get_config("host"), self.config_record, self.deadline, headers=headers,
            verify=bool(self.get_config("verify_ssl")),
        )  # fmt: skip
