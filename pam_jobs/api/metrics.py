"""``/metrics`` for Prometheus: identifiers and numbers, for who may read metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pam_jobs.api.auth import Principal, require
from pam_jobs.api.context import AppContext
from pam_jobs.metrics.catalogue import METRICS
from pam_jobs.metrics.readings import Samples, read

__all__ = ["KEPT_SECONDS", "install", "router"]

router = APIRouter(tags=["server"])

Reader = Annotated[Principal, Depends(require("metrics_read"))]

KEPT_SECONDS: Final = 5.0
"""For so long an answer is given again: several who ask cost the database as much as one."""


class _Readings(Collector):
    """The latest values, read again when they have become old."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._samples: Samples = {}
        self._read_at: float | None = None

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Give every metric of the catalogue; one without values says its name and meaning."""
        samples = self._fresh()
        for metric in METRICS.values():
            kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in samples.get(metric.name, ()):
                family.add_metric(labels, value)
            yield family

    def _fresh(self) -> Samples:
        context = self._context
        with self._lock:  # whoever comes meanwhile waits for the same answer
            now = context.clock.monotonic()
            if self._read_at is None or now - self._read_at >= KEPT_SECONDS:
                with context.database.transaction(read_only=True) as session:
                    self._samples = read(session, context.clock, offline_seconds=context.settings.offline_seconds)
                self._read_at = now
            return self._samples


def install(app: FastAPI, context: AppContext) -> None:
    """Give the application its metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Readings(context))
    app.state.metrics = registry


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(_principal: Reader, request: Request) -> Response:
    """Return every metric in the format that the client asks for; at most some seconds old."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.metrics), media_type=content_type)
