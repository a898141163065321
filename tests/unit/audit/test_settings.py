from __future__ import annotations

from pathlib import Path

import pytest

from pam_jobs.audit.sinks import SINKS, sink_type
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import ensure_tls
from pam_jobs.errors import InvalidInput
from pam_jobs.secret import SecretValue

pytestmark = pytest.mark.unit

TOKEN = SecretValue("a-token")


def test_settings_come_back_complete(tmp_path: Path) -> None:
    assert SINKS["json"].check({"path": "/var/log/audit.jsonl"}, None) == {"path": "/var/log/audit.jsonl"}
    syslog = SINKS["syslog"].check({"host": "siem.example", "port": 6514}, None)
    assert (syslog["transport"], syslog["framing"], syslog["message"]) == ("tls", "octet-counting", "json")
    splunk = SINKS["splunk"].check({"url": "https://splunk.example:8088"}, TOKEN)
    assert splunk["url"] == "https://splunk.example:8088/services/collector"
    assert SINKS["splunk"].check({"url": "https://s.example/hec/raw"}, TOKEN)["url"] == "https://s.example/hec/raw"
    ca = ensure_tls(tmp_path, ["localhost"], SystemClock()).ca.read_text()
    assert SINKS["syslog"].check({"host": "::1", "port": 1, "ca": ca}, None)["ca"] == ca


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        ("json", {}, "path"),
        ("json", {"path": "audit.jsonl"}, "absolute"),
        ("json", {"path": "/var/log/../../etc/audit"}, "absolute"),
        ("json", {"path": "/var/log/"}, "absolute"),
        ("json", {"path": "/var/log/a", "mode": "0644"}, "mode"),
        ("syslog", {"host": "siem.example"}, "port"),
        ("syslog", {"host": "siem.example", "port": 0}, "port"),
        ("syslog", {"host": "siem.example", "port": 65536}, "port"),
        ("syslog", {"host": "https://siem.example", "port": 514}, "host"),
        ("syslog", {"host": "a b", "port": 514}, "host"),
        ("syslog", {"host": "siem.example", "port": 514, "transport": "udp"}, "transport"),
        ("syslog", {"host": "siem.example", "port": 514, "ca": "no certificate"}, "PEM"),
        ("syslog", {"host": "siem.example", "port": 514, "sd_id": 'x"y'}, "sd_id"),
    ],
)
def test_wrong_settings_are_refused_with_the_name_of_the_setting(
    kind: str, settings: dict[str, object], word: str
) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        sink_type(kind).check(settings, None)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "http://splunk.example:8088",
        "splunk.example:8088",
        "https://",
        "https://user:pw@splunk.example",
        "https://splunk.example/?token=x",
        "file:///etc/passwd",
    ],
)
def test_a_collector_is_reached_over_https_with_the_token_apart(url: str) -> None:
    with pytest.raises(InvalidInput, match="url"):
        SINKS["splunk"].check({"url": url}, TOKEN)


def test_plain_http_is_allowed_on_this_machine_alone() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert SINKS["splunk"].check({"url": f"http://{host}:8088"}, TOKEN)


def test_a_token_is_taken_where_it_is_needed_and_refused_elsewhere() -> None:
    with pytest.raises(InvalidInput, match="needs a token"):
        SINKS["splunk"].check({"url": "https://splunk.example"}, None)
    with pytest.raises(InvalidInput, match="takes no token"):
        SINKS["json"].check({"path": "/var/log/a"}, TOKEN)


@pytest.mark.parametrize("token", ["with space", "line\r\nHost: other", "ünicode"])
def test_a_token_that_would_break_the_header_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SINKS["splunk"].check({"url": "https://splunk.example"}, SecretValue(token))
    assert token not in caught.value.sentence()


def test_an_unknown_kind_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidInput) as caught:
        sink_type("carrier-pigeon")
    assert "json, syslog, splunk" in caught.value.sentence()
