"""The first start: keys, tables, the first user; and once the router answers, the embedded gateway."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pam_jobs.audit.log import Actor
from pam_jobs.cli.embedded.state import DataFolder, Settings
from pam_jobs.client.profile import Profile
from pam_jobs.client.session import Session, connect
from pam_jobs.client.vault import VaultClient
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.keystore import KeyStore, write_private
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.secret import SecretValue

__all__ = ["APPLICATION", "GATEWAY", "flower_password", "gateway_is_online", "make_gateway", "prepare"]

APPLICATION = "Embedded"
GATEWAY = "embedded"
_TOKEN_SECONDS = 3600
_OFFLINE_SECONDS = 30

Report = Callable[[str], None]


def prepare(folder: DataFolder, settings: Settings, username: str, report: Report) -> None:
    """Make keys, tables and the first user where they are missing; nothing runs yet.

    Args:
        folder: prepared, and locked by us.
        settings: the chosen ports.
        username: of the first user.
        report: is told what was made.
    """
    from pam_jobs.db.migrate import upgrade

    KeyStore(folder.keys).ensure()
    ensure_tls(folder.keys / "tls", ["localhost", "127.0.0.1"], SystemClock())
    os.umask(0o077)
    upgrade(folder.database_url)
    flower_password(folder)
    _first_user(folder, settings, username, report)


def flower_password(folder: DataFolder) -> str:
    """Return Flower's password, made at the first call."""
    path = folder.flower_password_file
    if not path.exists():
        write_private(path, secrets.token_urlsafe(18).encode())
    return path.read_text().strip()


def _first_user(folder: DataFolder, settings: Settings, username: str, report: Report) -> None:
    from pam_jobs.access import users

    database = Database(folder.database_url)
    try:
        with database.transaction(read_only=True) as session:
            known = users.everyone(session)
        if not known:
            new, key = users.make_user(username, _passphrase(folder, username, report), "admin")
            actor = Actor(username=username)
            with database.transaction() as session:
                users.register(session, SystemClock(), actor, new)
            _profile(folder, settings, username).save()
            Session(username=username, private_key=key).save(_profile(folder, settings, username))
            report(f"made the user {username} and signed in")
        else:
            stored = Profile.load({"PAM_DATA_DIR": str(folder.path)})
            _profile(folder, settings, stored.username or known[0].username).save()
    finally:
        database.dispose()


def _profile(folder: DataFolder, settings: Settings, username: str) -> Profile:
    return Profile(folder=folder.path, router=f"https://127.0.0.1:{settings.port}", ca=folder.ca, username=username)


def _passphrase(folder: DataFolder, username: str, report: Report) -> SecretValue:
    """Return the first user's passphrase: from the environment, else typed, else made and kept in a file."""
    from pam_jobs.cli.account import ask_new_passphrase

    if os.environ.get("PAM_PASSPHRASE") or (sys.stdin.isatty() and sys.stderr.isatty()):
        return ask_new_passphrase(f"A passphrase for {username}, the first user", "PAM_PASSPHRASE")
    made = SecretValue(secrets.token_urlsafe(24))
    _replace_private(folder.passphrase_file, made.reveal())
    report(
        f"made a passphrase for {username}: it is in {folder.passphrase_file};"
        " copy it to your password manager and remove the file, nobody can restore it"
    )
    return made


def _replace_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    write_private(path, f"{text}\n".encode())


def make_gateway(folder: DataFolder, report: Report) -> bool:
    """Make the application and the gateway of embedded mode once; say whether there is a gateway to start.

    Needs the router, and the session of the first user.
    """
    if folder.gateway_config.exists():
        return True
    profile = Profile.load({"PAM_DATA_DIR": str(folder.path)})
    if not profile.session_file.exists():
        report("no gateway was made, because nobody is signed in: run `pam login`, then `pam down` and `pam up`")
        return False
    router, session = connect(profile, environment={})
    with VaultClient(router, session) as client:
        known = [entry for entry in client.applications.list() if entry.title == APPLICATION]
        app = known[0] if known else client.applications.find(client.applications.add(APPLICATION))
        names = {row["name"] for row in client.pam.gateways()}
        name = GATEWAY if GATEWAY not in names else f"{GATEWAY}-{secrets.token_hex(3)}"
        _, token = client.pam.add_gateway(app, name, token_seconds=_TOKEN_SECONDS)
        config = client.applications.client_config(token)
    write_private(folder.gateway_config, json.dumps(config).encode())
    report(f"made the application {APPLICATION} and the gateway {name}")
    return True


def gateway_is_online(folder: DataFolder, since: datetime) -> bool:
    """Say whether an instance of this folder's gateway that started at or after the instant is online."""
    from pam_jobs.db.tables import Client
    from pam_jobs.rotation import gateways

    try:
        client_id = json.loads(folder.gateway_config.read_text()).get("clientId")
    except (OSError, ValueError):
        return False
    if not client_id:
        return False
    database = Database(folder.database_url)
    try:
        with database.transaction(read_only=True) as session:
            client = session.get(Client, client_id)
            rows = gateways.overview(session, SystemClock(), offline_seconds=_OFFLINE_SECONDS)
        uid = client.gateway_uid if client else None
        return any(
            entry.status == "ONLINE" and entry.started_at >= since
            for row in rows
            if row.uid == uid
            for entry in row.instances
        )
    finally:
        database.dispose()
