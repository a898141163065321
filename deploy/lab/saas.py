"""Emulated online services on loopback: Okta, Snowflake, Meraki, Elasticsearch, and a plain endpoint for REST.

Each checks the administrator's credential, keeps its users' passwords, refuses with the vendor's codes, and lets a user
log in only with the password that it has. Sources: the vendors' published API references.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from deploy.lab.processes import new_password

__all__ = ["SaasServer", "SaasServices", "SaasUser", "start"]

_Answer = tuple[int, Any]
_ROUTES: list[tuple[str, re.Pattern[str], str]] = []


@dataclass
class SaasUser:
    """One account of one service."""

    name: str
    password: str
    state: str = "ACTIVE"  # LOCKED_OUT, SUSPENDED, PASSWORD_EXPIRED
    history: list[str] = field(default_factory=list)
    uid: str = field(default_factory=lambda: secrets.token_hex(8))

    def refuses(self, new: str, least: int) -> bool:
        """Say whether the service's rules forbid the password; the current one may always be set again."""
        return len(new) < least or (new in self.history and new != self.password)

    def set(self, new: str) -> None:
        """Take the password."""
        self.history.append(self.password)
        self.password = new


@dataclass
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    def basic(self) -> tuple[str, str] | None:
        kind, _, text = self.headers.get("authorization", "").partition(" ")
        if kind != "Basic":
            return None
        name, _, password = base64.b64decode(text).decode().partition(":")
        return name, password


class SaasServices:
    """All services behind one address; a context manager."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)  # of every administrator: API token, key or password
        self.admin = "admin@example.com"
        self.users: dict[str, SaasUser] = {}
        self.requests: list[tuple[str, str]] = []  # method and path
        self.fault: Callable[[str, str], _Answer | None] = lambda _method, _path: None
        self.after: Callable[[str, str], bool] = lambda _method, _path: False  # cut off after it was done
        self._sessions: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """On loopback."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where the services are."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, password: str) -> SaasUser:
        """Make an account, for every service alike."""
        user = self.users[name] = SaasUser(name, password)
        return user

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, request: _Request) -> _Answer:
        """Return what the service answers."""
        self.requests.append((request.method, request.path))
        if (broken := self.fault(request.method, request.path)) is not None:
            return broken
        for method, pattern, name in _ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                found: _Answer = getattr(self, name)(request, *(unquote(part) for part in match.groups()))
                return found
        return 404, {}

    # Okta

    def _okta_user(self, request: _Request, name: str) -> _Answer:
        if request.headers.get("authorization") != f"SSWS {self.token}":
            return 401, {"errorCode": "E0000011"}
        user = self.users.get(name) or next((each for each in self.users.values() if each.uid == name), None)
        if user is None:
            return 404, {"errorCode": "E0000007"}
        if request.method == "POST":
            new = request.body["credentials"]["password"]["value"]
            if user.refuses(new, 8):
                return 400, {"errorCode": "E0000001", "errorCauses": [{"errorSummary": "password: requirements"}]}
            user.set(new)
        state = "ACTIVE" if user.state == "PASSWORD_EXPIRED" else user.state
        return 200, {"id": user.uid, "status": state, "credentials": {"provider": {"type": "OKTA", "name": "OKTA"}}}

    def _okta_login(self, request: _Request) -> _Answer:
        user = self.users.get(request.body.get("username", ""))
        if user is None or (user.password != request.body.get("password") and user.state != "LOCKED_OUT"):
            return 401, {"errorCode": "E0000004"}
        return 200, {"status": "SUCCESS" if user.state == "ACTIVE" else user.state}

    # Elasticsearch

    def _elastic_admin(self, request: _Request) -> bool:
        return request.basic() == (self.admin, self.token) or (
            request.headers.get("authorization") == f"ApiKey {self.token}"
        )

    def _elastic_user(self, request: _Request, name: str) -> _Answer:
        if not self._elastic_admin(request):
            return 401, {"error": {"type": "security_exception"}}
        user = self.users.get(name)
        if user is None:
            return 404, {}
        return 200, {name: {"username": name, "enabled": user.state != "SUSPENDED"}}

    def _elastic_password(self, request: _Request, name: str) -> _Answer:
        if not self._elastic_admin(request):
            return 401, {"error": {"type": "security_exception"}}
        user = self.users.get(name)
        if user is None:
            return 400, {"error": {"type": "validation_exception"}}
        if len(request.body["password"]) < 6:
            return 400, {"error": {"type": "action_request_validation_exception"}}
        user.set(request.body["password"])
        return 200, {}

    def _elastic_login(self, request: _Request) -> _Answer:
        name, password = request.basic() or ("", "")
        user = self.users.get(name)
        is_in = user is not None and user.password == password and user.state != "SUSPENDED"
        return (200, {"username": name}) if is_in else (401, {"error": {"type": "security_exception"}})

    # Meraki

    def _meraki_users(self, request: _Request, _network: str) -> _Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"errors": ["Invalid API key"]}
        return 200, [{"id": user.uid, "email": user.name, "isAdmin": False} for user in self.users.values()]

    def _meraki_user(self, request: _Request, _network: str, uid: str) -> _Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"errors": ["Invalid API key"]}
        user = next((each for each in self.users.values() if each.uid == uid), None)
        if user is None:
            return 404, {}
        if user.refuses(request.body["password"], 8):
            return 400, {"errors": ["Password is too short"]}
        user.set(request.body["password"])
        return 200, {"id": uid, "email": user.name}

    # Snowflake

    def _snowflake_login(self, request: _Request) -> _Answer:
        data = request.body.get("data", {})
        name, password = str(data.get("LOGIN_NAME", "")).upper(), data.get("PASSWORD")
        user = next((each for each in self.users.values() if each.name.upper() == name), None)
        if user is not None and user.state == "LOCKED_OUT":
            return 200, {"success": False, "code": "390102", "data": {}}
        is_admin = name == self.admin.upper() and password == self.token
        if not is_admin and (user is None or user.password != password):
            return 200, {"success": False, "code": "390100", "data": {}}
        token = secrets.token_hex(16)
        if is_admin:
            self._sessions.add(token)
        return 200, {"success": True, "code": None, "data": {"token": token}}

    def _snowflake_query(self, request: _Request) -> _Answer:
        token = request.headers.get("authorization", "")[len('Snowflake Token="') : -1]
        if token not in self._sessions:
            return 200, {"success": False, "code": "390104"}
        text = request.body["sqlText"]
        if re.fullmatch(r'USE ROLE "(?:[^"]|"")+"', text):
            return 200, {"success": True, "code": None}
        found = re.fullmatch(
            r"""(DESCRIBE|ALTER) USER "((?:[^"]|"")+)"(?: SET PASSWORD = '((?:[^'\\]|''|\\.)*)')?""", text, re.DOTALL
        )
        if found is None:
            return 200, {"success": False, "code": "001003"}
        name = found[2].replace('""', '"')
        user = next((each for each in self.users.values() if name in {each.name, each.name.upper()}), None)
        if user is None:
            return 200, {"success": False, "code": "002003"}
        if found[1] == "ALTER":
            new = re.sub(r"\\(.)", r"\1", (found[3] or "").replace("''", "'"), flags=re.DOTALL)
            if user.refuses(new, 8):
                return 200, {"success": False, "code": "003002"}
            user.set(new)
        return 200, {"success": True, "code": None}

    # an endpoint of one's own

    def _rest_change(self, request: _Request) -> _Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}
        user = self.users.get(request.body.get("username", ""))
        if user is None:
            return 404, {}
        if user.refuses(request.body["new_password"], 8):
            return 422, {}
        user.set(request.body["new_password"])
        return 204, None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                content = self.rfile.read(size)
                body = json.loads(content) if content else {}
                path = urlsplit(self.path).path
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, document = services.answer(_Request(self.command, path, headers, body))
                if services.after(self.command, path):
                    self.close_connection = True
                    self.connection.close()
                    return
                sent = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 - names of the library

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        return Handler


@dataclass(frozen=True, kw_only=True)
class SaasServer:
    """The services as a target of the lab; they are threads of the process that started them."""

    host: str
    port: int
    url: str
    admin_login: str
    token: str = field(repr=False)  # API token, key and password of the administrator
    user: str
    user_password: str = field(repr=False)
    services: SaasServices = field(repr=False)

    def stop(self) -> None:
        """Stop the services."""
        self.services.__exit__()


def start(folder: Path) -> SaasServer:  # noqa: ARG001 - every target of the lab is started so
    """Start the services with one user.

    Args:
        folder: nothing is written there.
    """
    services = SaasServices().__enter__()
    user = services.add("ann@example.com", new_password())
    return SaasServer(
        host="127.0.0.1", port=services.port, url=services.url, admin_login=services.admin, token=services.token,
        user=user.name, user_password=user.password, services=services,
    )  # fmt: skip


def _route(method: str, path: str, name: str) -> None:
    _ROUTES.append((method, re.compile(path), name))


_route("GET", r"/api/v1/users/([^/]+)", "_okta_user")
_route("POST", r"/api/v1/users/([^/]+)", "_okta_user")
_route("POST", r"/api/v1/authn", "_okta_login")
_route("GET", r"/_security/user/([^/]+)", "_elastic_user")
_route("POST", r"/_security/user/([^/]+)/_password", "_elastic_password")
_route("GET", r"/_security/_authenticate", "_elastic_login")
_route("GET", r"/api/v1/networks/([^/]+)/merakiAuthUsers", "_meraki_users")
_route("PUT", r"/api/v1/networks/([^/]+)/merakiAuthUsers/([^/]+)", "_meraki_user")
_route("POST", r"/session/v1/login-request", "_snowflake_login")
_route("POST", r"/queries/v1/query-request", "_snowflake_query")
_route("POST", r"/rest/password", "_rest_change")
_route("PUT", r"/rest/password", "_rest_change")
_route("GET", r"/rest/login", "_elastic_login")
