"""The life of a gateway process: hello, heartbeats, jobs, goodbye."""

from __future__ import annotations

import gc
import os
import platform
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import structlog
from celery import Celery, signals
from celery.exceptions import Reject
from celery.worker import state as worker_state
from urllib3.connectionpool import HTTPSConnectionPool

from connectors.registry import ConnectorRegistry
from connectors.saas.catalogue import Catalogue
from pam_jobs import __version__
from pam_jobs.app import make_app, node_name
from pam_jobs.clock import SystemClock
from pam_jobs.errors import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    PamJobsError,
    StateError,
    VaultUnavailable,
)
from pam_jobs.jobs import redis_guard, wire
from pam_jobs.settings import GatewaySettings
from workers import tasks
from workers.boundaries import boundary_from
from workers.breaker import Breakers
from workers.engine import Engine
from workers.identity import Identity, bind
from workers.instances import InstanceFile
from workers.journal import Journal
from workers.pool import make_pool
from workers.ports import EngineSettings, Ports
from workers.position import PositionFile
from workers.request import MessageGuard
from workers.router import DeviceToken, NotBelieved, RouterClient, RouterUnavailable
from workers.script_host import sweep
from workers.target_tags import TargetTags
from workers.vault import SdkVault

__all__ = ["EXIT_CONFIGURATION", "EXIT_REMOVED", "Agent"]

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")

EXIT_CONFIGURATION: Final = 2
EXIT_REMOVED: Final = 3

_LONGEST_PAUSE_SECONDS: Final = 15.0
_FULL_SECONDS: Final = 120.0  # how long an instance waits for a place, while a dead one still counts
_DENIALS: Final = 3  # refused heartbeats in a row that mean the gateway was removed
_COMPONENTS: Final = ("celery", "kombu", "keeper-secrets-manager-core", "cryptography", "paramiko", "psycopg")


class Agent:
    """One gateway process."""

    def __init__(self, settings: GatewaySettings, identity: Identity, state_dir: Path | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            settings: of the process.
            identity: of the gateway.
            state_dir: where instances of this machine, host keys and the journal are kept; None: nowhere.
        """
        self._settings = settings
        self._identity = identity
        self._clock = SystemClock()
        self._instances = InstanceFile(state_dir) if state_dir else None
        self._stop = threading.Event()
        self._exit_code = 0
        name = settings.gateway_instance or f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        self.instance = name[:64]
        self._vault = SdkVault(identity.storage, settings.ca_file)
        self._registry = ConnectorRegistry(state_folder=state_dir)
        self._saas = Catalogue(settings.saas_plugins_dir, may_install=settings.saas_pip)
        self._journal = Journal(state_dir, clock=self._clock)
        self._pool = _connections(identity.hostname, settings)
        self._position: PositionFile | None = None
        self._told_trouble: str | None = None
        self._state_dir = state_dir
        self._router: RouterClient | None = None
        self._engine: Engine | None = None
        self._guard: MessageGuard | None = None

    def run(self) -> int:
        """Serve until told to stop, and return the process's exit code.

        Raises:
            ConfigurationError: the gateway cannot start with what it was given.
            AccessDenied: the gateway was removed.
        """
        self._patiently(lambda: bind(self._identity, self._vault.greet))
        token = DeviceToken(self._identity.client_id, self._identity.private_key, self._clock)
        router = self._router = RouterClient(self._pool, token, self.instance)
        self._position = PositionFile(self._state_dir, self._identity.client_id)
        answer = self._hello(router)
        sweep(self._settings.work_dir)
        self._guard = MessageGuard(answer.signing_key, answer.queue, self._clock)
        router.register_anew = self._register_anew
        self._engine = self._make_engine(router)
        app = self._make_app(answer)
        gc.collect()
        gc.freeze()  # what was made up to here stays; it need not be looked through with every job
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        try:
            return self._serve(app, answer) or self._exit_code
        finally:
            self._end(router)

    def _end(self, router: RouterClient) -> None:
        self._stop.set()
        try:
            router.goodbye()
        except PamJobsError as error:
            _log.info("goodbye_not_heard", cause=error.code)
        self._registry.close_idle()
        self._journal.close()
        if self._instances:
            self._instances.remove()
        self._pool.close()
        _log.info("gateway_stopped", instance=self.instance)

    def _make_engine(self, router: RouterClient) -> Engine:
        settings = self._settings
        return Engine(
            Ports(
                router=router,
                vault=self._vault,
                chain_for=self._registry.chain_for,
                saas=self._saas,
                recognisers=self._registry.recognisers,
                breakers=Breakers(slots=max(1, settings.gateway_concurrency * 3 // 4)),
                tags=TargetTags(self._identity.application_key),
                clock=self._clock,
                settings=EngineSettings(
                    job_seconds=settings.job_seconds,
                    script_seconds=settings.script_seconds,
                    work_dir=settings.work_dir,
                ),
                boundary=boundary_from(os.environ),
                journal=self._journal,
            )
        )

    def _make_app(self, answer: wire.HelloAnswer) -> Celery:
        redis_guard.install()
        longest = max(self._settings.job_seconds, EngineSettings().discovery_seconds)
        app = make_app(
            self._settings.broker_url,
            gateway_uid=answer.gateway_uid,
            visibility_seconds=int(max(7200, longest * 2)),
        )
        app.conf.worker_consumer = "workers.request:GuardedConsumer"
        if self._guard is None:
            raise StateError("the gateway has not said hello")
        tasks.register(app, self._guard, self._work)
        return app

    def _serve(self, app: Celery, answer: wire.HelloAnswer) -> int:
        signals.setup_logging.connect(_keep_logging, weak=False)  # else Celery sets up its own
        signals.worker_ready.connect(self._ready, weak=False)
        signals.worker_shutting_down.connect(self._stopping, weak=False)
        worker = app.Worker(
            hostname=node_name(f"gw-{answer.gateway_uid}", secrets.token_hex(4)),
            pool="threads",
            concurrency=self._settings.gateway_concurrency,
            loglevel="INFO",
            quiet=True,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _ready(self, **_: Any) -> None:
        with suppress(ValueError):  # of a thread that is not the main one
            _take_signals()
        _log.info("gateway_ready", instance=self.instance, concurrency=self._settings.gateway_concurrency)

    def _stopping(self, **_: Any) -> None:
        """Give back what has not begun to change anything; the worker then waits for the rest."""
        if self._engine is not None:
            _log.info("gateway_stopping", running=len(self._engine.running.uids()))
            self._engine.running.give_back()

    def _work(self, job_uid: str) -> None:
        """Do one job; whatever goes wrong is told in the log, and the router's reconciler sees to the job."""
        if self._engine is None or worker_state.should_stop is not None:
            raise Reject("the gateway is stopping", requeue=True)
        try:
            self._engine.run(job_uid)
        except VaultUnavailable as error:
            _log.warning("job_left", job=job_uid, cause=error.code)
        except PamJobsError as error:
            _log.error("job_failed", job=job_uid, cause=error.code, reason=error.message)
        except Exception as error:  # noqa: BLE001 - the edge of the task: Celery would log what the exception says
            _log.error("job_failed_inside", job=job_uid, error=type(error).__name__)

    def _hello(self, router: RouterClient) -> wire.HelloAnswer:
        details = self._details()
        dead: dict[str, Path] = {}
        if self._instances:
            dead = self._instances.dead()
            details["replaces"] = list(dead)
            self._instances.add(self.instance)
        end = self._clock.monotonic() + _FULL_SECONDS

        def once() -> wire.HelloAnswer:
            try:
                return self._say_hello(router, details)
            except StateError as error:
                if self._clock.monotonic() >= end:
                    raise ConfigurationError(error.message, remedy=error.remedy) from error
                raise RouterUnavailable(error.message, remedy=error.remedy) from error

        answer = self._patiently(once)
        if self._instances:
            self._instances.forget(dead.values())
        _log.info("hello", gateway=answer.gateway_uid, instance=self.instance, queue=answer.queue)
        return answer

    def _say_hello(self, router: RouterClient, details: dict[str, Any]) -> wire.HelloAnswer:
        position = self._position
        answer = router.hello(_version(), details, position.newest if position else None)
        self._told_trouble = details["journal"]
        if position is not None:
            position.take(answer.position)
        return answer

    def _details(self) -> dict[str, Any]:
        return {
            "journal": self._journal.trouble,
            "hostname": socket.gethostname(),
            "os": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_048_576,
            "pid": os.getpid(),
            "started_at": self._clock.now().isoformat(timespec="seconds"),
            "concurrency": self._settings.gateway_concurrency,
            "connectors": self._registry.names(),
            "saas": self._saas.to_json(),
            "components": {name: found for name in _COMPONENTS if (found := _installed(name))},
        }

    def _patiently(self, action: Callable[[], _Answer]) -> _Answer:
        """Return what the action gives, waiting for a router that is not there yet."""
        pause = 0.5
        while True:
            try:
                return action()
            except VaultUnavailable as error:
                _log.warning("router_awaited", cause=error.code, reason=error.message)
            if self._stop.wait(pause):
                raise ConfigurationError("stopped before the router was there")
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _beat(self) -> None:
        denials = 0
        while not self._stop.wait(self._settings.heartbeat_seconds):
            try:
                self._beat_once()
            except NotBelieved as error:
                _log.error("clock_differs", reason=error.sentence())
            except AccessDenied as error:
                denials += 1
                if denials >= _DENIALS:
                    _log.error("gateway_removed", reason=error.sentence())
                    self._exit_code = EXIT_REMOVED
                    worker_state.should_stop = EXIT_REMOVED
                    return
            except PamJobsError as error:
                _log.warning("heartbeat_not_heard", cause=error.code)
            except Exception as error:  # noqa: BLE001 - a gateway without heartbeats would count as dead
                _log.error("heartbeat_failed", error=type(error).__name__)
            else:
                denials = 0

    def _beat_once(self) -> None:
        router, engine = self._router, self._engine
        if router is None or engine is None or self._guard is None:
            return
        position = self._position
        try:
            answer = router.heartbeat(engine.running.uids(), position.newest if position else None)
        except (NotFound, StateError):
            self._register_anew()
            return
        if position is not None:
            position.take(answer.position)
        if self._journal.trouble != self._told_trouble:
            self._say_hello(router, self._details())
        for job_uid in answer.cancelled:
            engine.running.cancel(job_uid)

    def _register_anew(self) -> None:
        """Say hello again, as after the router took this instance for dead."""
        if self._router is not None and self._guard is not None:
            again = self._say_hello(self._router, self._details())
            self._guard.renew(again.signing_key)


def _connections(hostname: str, settings: GatewaySettings) -> HTTPSConnectionPool:
    return make_pool(hostname, settings.ca_file, connect_seconds=5.0, answer_seconds=30.0)


def _version() -> str:
    parts = (__version__, platform.system(), platform.release(), platform.machine(), platform.version())
    return ";".join(part.replace(";", ",") for part in parts)[:200]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _take_signals() -> None:
    """Make a hang-up and the first Ctrl-C a warm stop with exit code 0, as SIGTERM is; a second Ctrl-C stops at once.

    Celery would start the process anew on a hang-up, which is for its supervisor to do.
    """
    warm = signal.getsignal(signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGQUIT))
        if callable(warm):
            warm(number, frame)

    signal.signal(signal.SIGHUP, warm)
    signal.signal(signal.SIGINT, interrupt)


def _keep_logging(**_: Any) -> None:
    """Leave logging as it is."""
