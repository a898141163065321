"""Starts the processes of embedded mode in order, keeps them running, and stops them in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType

import httpx

from pam_jobs.cli.embedded import broker, plan, setup
from pam_jobs.cli.embedded.processes import Child, start_time
from pam_jobs.cli.embedded.state import DataFolder, Lock, Settings
from pam_jobs.errors import ConfigurationError, PamJobsError

__all__ = ["Supervisor"]

_TICK_SECONDS = 0.1
_START_SECONDS = 90.0  # for one process to become ready, on a busy machine
_LOG_CHECK_TICKS = 50
_REQUEST_SECONDS = 2.0
_RUNS_BEFORE_GIVING_UP = 4

Report = Callable[[str], None]


class StopRequested(Exception):
    """Somebody asked for the end while the start was under way."""


class Supervisor:
    """The one process that owns all others of a data folder."""

    def __init__(self, folder: DataFolder, settings: Settings, lock: Lock, report: Report) -> None:
        """Plan the processes; nothing is started.

        Args:
            folder: prepared.
            settings: the chosen ports.
            lock: held by us.
            report: is told what happens, one line each.
        """
        self.folder = folder
        self.settings = settings
        self._lock = lock
        self._report = report
        self._stop = False
        self._phase = "starting"
        self._error: str | None = None
        planned = plan.specs(folder, settings, setup.flower_password(folder))
        self.children = {
            name: Child(spec=planned[name], log=folder.logs / f"{name}.log", folder=folder.path)
            for name in plan.START_ORDER
        }

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, keep it running until SIGTERM or SIGINT, and stop it.

        Args:
            ready: called once, when everything answers.

        Raises:
            ConfigurationError: a process does not become ready; the others have been stopped.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        try:
            try:
                self._start_all()
            except StopRequested:
                return
            self._phase = "ready"
            self._write()
            ready()
            self._watch()
        except Exception as error:
            self._error = error.sentence() if isinstance(error, PamJobsError) else f"a fault ({type(error).__name__})"
            raise
        finally:
            self._stop_all()
            self._phase = "failed" if self._error else "stopped"
            self._write()
            self._lock.release()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    # start

    def _start_all(self) -> None:
        self._write()
        self._start("broker", lambda: broker.answers(self.folder))
        for name in ("router", "control", "beat", "flower"):
            self._launch(name)
        self._until("router", self._router_is_ready)
        has_gateway = setup.make_gateway(self.folder, self._report)
        if has_gateway:
            since = datetime.now(UTC) - timedelta(seconds=1)
            self._start("gateway", lambda: setup.gateway_is_online(self.folder, since))
        else:
            del self.children["gateway"]
        self._until("flower", self._flower_is_ready)
        for name in ("control", "beat"):
            self._until(name, lambda: True)

    def _launch(self, name: str) -> None:
        self._report(f"starting {name}")
        self.children[name].start()
        self._write()

    def _start(self, name: str, is_ready: Callable[[], bool]) -> None:
        self._launch(name)
        self._until(name, is_ready)

    def _until(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a process is ready, restarting what dies meanwhile."""
        child = self.children[name]
        end = time.monotonic() + _START_SECONDS
        while True:
            self._check_children()
            if child.state == "running" and is_ready():
                return
            if child.restarts >= _RUNS_BEFORE_GIVING_UP or time.monotonic() > end:
                said = child.tail()
                raise ConfigurationError(
                    f"{name} does not become ready" + (f" ({said[:300]})" if said else ""),
                    remedy=f"look at {child.log}",
                )
            if self._stop:
                raise StopRequested
            time.sleep(_TICK_SECONDS)

    def _router_is_ready(self) -> bool:
        return _answers(f"https://127.0.0.1:{self.settings.port}/readyz", str(self.folder.ca))

    def _flower_is_ready(self) -> bool:
        return _answers(f"http://127.0.0.1:{self.settings.flower_port}/healthcheck", None)

    # watch

    def _watch(self) -> None:
        ticks = 0
        while not self._stop:
            self._check_children()
            ticks += 1
            if ticks % _LOG_CHECK_TICKS == 0:
                for child in self.children.values():
                    child.bound_log()
            time.sleep(_TICK_SECONDS)

    def _check_children(self) -> None:
        changed = False
        for child in self.children.values():
            if child.check():
                changed = True
                if child.state == "restarting":
                    self._report(f"{child.spec.name} ended with {child.exit_code} and is started again")
        if changed:
            self._write()

    # stop

    def _stop_all(self) -> None:
        if self._phase != "starting" or any(child.state == "running" for child in self.children.values()):
            self._report("stopping")
        self._phase = "stopping"
        for names in plan.STOP_ORDER:
            batch = [self.children[name] for name in names if name in self.children]
            for child in batch:
                child.ask_to_stop()
            self._write()
            for child in batch:
                child.wait()
        self._write()

    def _write(self) -> None:
        self.folder.write_state(
            {
                "phase": self._phase,
                "error": self._error,
                "supervisor": {"pid": os.getpid(), "started": start_time(os.getpid())},
                "router": f"https://127.0.0.1:{self.settings.port}",
                "flower": f"http://127.0.0.1:{self.settings.flower_port}",
                "broker": self.folder.broker_url,
                "processes": [child.describe() for child in self.children.values()],
            }
        )


def _answers(url: str, ca: str | None) -> bool:
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca) if ca else False
        return httpx.get(url, verify=context, timeout=_REQUEST_SECONDS, trust_env=False).is_success
    except (httpx.HTTPError, OSError):
        return False
