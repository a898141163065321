"""Receivers of the audit log, one module each."""

from __future__ import annotations

from collections.abc import Mapping

from pam_jobs.audit.sinks.base import DeliveryRefused, Sink, SinkEvent
from pam_jobs.audit.sinks.json_file import JsonFileSink
from pam_jobs.audit.sinks.splunk import SplunkSink
from pam_jobs.audit.sinks.syslog import SyslogSink
from pam_jobs.errors import InvalidInput

__all__ = ["SINKS", "DeliveryRefused", "Sink", "SinkEvent", "sink_type"]

SINKS: Mapping[str, type[Sink]] = {sink.kind: sink for sink in (JsonFileSink, SyslogSink, SplunkSink)}


def sink_type(kind: str) -> type[Sink]:
    """Return the class of a kind of sink.

    Raises:
        InvalidInput: there is no such kind.
    """
    if kind not in SINKS:
        raise InvalidInput(f"{kind!r} is no kind of sink", remedy=f"choose one of {', '.join(SINKS)}")
    return SINKS[kind]
