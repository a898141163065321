"""SaaS plugins with their configuration records, against emulated services."""

from __future__ import annotations

import secrets

from connectors.base import Account, Credential, Deadline
from connectors.saas.catalogue import Catalogue
from connectors.saas.connector import SaasConnector, target_of_service
from deploy.lab.saas import SaasServices
from pam_jobs.ids import new_uid
from pam_jobs.records.record import Record
from pam_jobs.secret import SecretValue

FIELDS = {
    "Okta": lambda at: {"Okta URL": at.url, "Okta Token": at.token},
    "Elasticsearch User": lambda at: {
        "Elasticsearch URL": at.url, "Admin Username": at.admin, "Admin Password": at.token,
    },
    "Snowflake": lambda at: {
        "Snowflake Admin User": at.admin, "Snowflake Admin Password": at.token, "Snowflake Account": "acme-main",
        "Snowflake URL": at.url,
    },
    "REST": lambda at: {
        "REST Url": f"{at.url}/rest/password", "REST Token": at.token, "REST Verify Url": f"{at.url}/rest/login",
    },
    "Cisco Meraki": lambda at: {"API Key": at.token, "Network ID": "N_1", "Webservice Host": at.url},
}  # fmt: skip


def service_record(services: SaasServices, plugin: str, **changes: str | None) -> Record:
    """Return a configuration record of a plugin; a value of None leaves a field out."""
    fields = {"SaaS Type": plugin, "Active": "TRUE"} | FIELDS[plugin](services)
    fields |= {label.replace("_", " "): text for label, text in changes.items()}
    custom = [{"type": "text", "label": label, "value": [text]} for label, text in fields.items() if text is not None]
    return Record.parse({"type": "saasConfiguration", "title": plugin, "fields": [], "custom": custom})


class SaasBench:
    """A plugin, a service, and how to look at it from the side."""

    def __init__(self, services: SaasServices, plugin: str, **changes: str | None) -> None:
        self.plugin = plugin
        self.services = services
        self.record = service_record(services, plugin, **changes)
        self.connector = SaasConnector(Catalogue(), self.record)
        self.target = target_of_service(self.record, new_uid())

    def new_account(self) -> tuple[Account, Credential]:
        """Return a fresh account and what logs in to it."""
        login = f"u{secrets.token_hex(4)}@example.com"
        password = f"First-{secrets.token_urlsafe(12)}"
        self.services.add(login, password)
        return Account(login=login, record_uid=new_uid()), Credential(login=login, password=SecretValue(password))

    def stored(self, account: Account) -> str:
        """Return the password that the service holds."""
        return self.services.users[account.login].password

    def open(self, current: Credential | None, *, seconds: float = 20):
        """Open a session; without a credential it can only log in."""
        return self.connector.open(self.target, current, Deadline(seconds))
