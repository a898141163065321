"""Which plugins a gateway has: those that come with it, and those of a folder of its own."""

from __future__ import annotations

import inspect
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module, invalidate_caches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import structlog
from packaging.requirements import InvalidRequirement, Requirement

from connectors.saas.plugin import SaasPlugin
from pam_jobs.errors import ConfigurationError, Unsupported

__all__ = ["Catalogue"]

_log = structlog.get_logger(__name__)
_BUILT_IN: Final[Mapping[str, str]] = {
    "Okta": "connectors.saas.plugins.okta:OktaPlugin",
    "Snowflake": "connectors.saas.plugins.snowflake:SnowflakePlugin",
    "REST": "connectors.saas.plugins.rest:RestPlugin",
    "Cisco Meraki": "connectors.saas.plugins.meraki:MerakiPlugin",
    "Elasticsearch User": "connectors.saas.plugins.elasticsearch:ElasticsearchPlugin",
}
_PIP_SECONDS: Final = 300


class Catalogue:
    """The plugins by name; shared by every thread of a gateway."""

    def __init__(self, folder: Path | None = None, *, may_install: bool = False) -> None:
        """Prepare; nothing is imported yet.

        Args:
            folder: where further plugins are, one ``.py`` file each; None: there are none. It, the files and what they
                are in are run as the gateway, so nobody but root and the gateway's user may write there.
            may_install: what a plugin requires and is missing is installed by pip, into the folder's ``.packages``.
        """
        self._folder = folder
        self._may_install = may_install
        self._lock = threading.Lock()
        self._own: dict[str, type[SaasPlugin]] | None = None

    def names(self) -> list[str]:
        """Return the names of all plugins, in alphabetical order."""
        return sorted([*_BUILT_IN, *self._custom()])

    def get(self, name: str) -> type[SaasPlugin]:
        """Return the plugin of this name; upper and lower case are the same.

        Raises:
            Unsupported: there is none, or it needs a package that is not there.
            ConfigurationError: the folder of plugins may not be used.
        """
        known = {each.casefold(): each for each in _BUILT_IN}
        if (exact := known.get(name.casefold())) is not None:
            module, _, attribute = _BUILT_IN[exact].partition(":")
            found: type[SaasPlugin] = getattr(import_module(module), attribute)
            return found
        custom = {each.casefold(): kind for each, kind in self._custom().items()}
        if name.casefold() not in custom:
            raise Unsupported(
                f"this gateway has no SaaS plugin named {name!r}",
                remedy=f"set 'SaaS Type' to one of {', '.join(self.names())}, or put the plugin into its folder",
            )
        self._require(custom[name.casefold()])
        return custom[name.casefold()]

    def check_folder(self, wanted: str | None) -> None:
        """Refuse a record that names another folder of plugins than this gateway's.

        Raises:
            ConfigurationError: it does; code is run from where the gateway's own settings say, never a record's.
        """
        if not wanted or not wanted.strip():
            return
        if self._folder is None or Path(wanted.strip()).resolve() != self._folder.resolve():
            raise ConfigurationError(
                "the field 'SaaS Plugins Dir' names another folder than this gateway's",
                remedy="start the gateway with PAM_SAAS_PLUGINS_DIR set to that folder, or correct the field",
            )

    def to_json(self) -> list[dict[str, Any]]:
        """Return the plugins for those who choose one; a folder that may not be used is left out."""
        try:
            names = self.names()
        except ConfigurationError as error:
            _log.error("saas_plugins_unusable", reason=error.message)
            names = sorted(_BUILT_IN)
        told = []
        for name in names:
            kind = self._custom().get(name) if name not in _BUILT_IN else self.get(name)
            if kind is not None:
                fields = [item.to_json() for item in kind.config_schema()]
                told.append({"name": kind.name, "summary": kind.summary, "fields": fields})
        return told

    def _custom(self) -> dict[str, type[SaasPlugin]]:
        with self._lock:
            if self._own is None:
                self._own = dict(self._load()) if self._folder is not None else {}
            return self._own

    def _load(self) -> Iterator[tuple[str, type[SaasPlugin]]]:
        folder = self._folder
        if folder is None:
            return
        _check_private(folder)
        if self._may_install and self._packages is not None and self._packages.is_dir():
            _use(self._packages)
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_"):
                continue
            _check_private(path)
            for kind in _plugins_of(path):
                if kind.name in _BUILT_IN:
                    _log.error("saas_plugin_name_taken", plugin=kind.name, file=path.name)
                    continue
                yield kind.name, kind

    def _require(self, kind: type[SaasPlugin]) -> None:
        """Raise ``Unsupported`` when a package that the plugin needs is missing and may not be installed."""
        packages = self._packages
        missing = [wanted for wanted in kind.requirements() if not _is_there(wanted)]
        if not missing:
            return
        if packages is None or not self._may_install:
            raise Unsupported(
                f"the SaaS plugin {kind.name!r} needs {', '.join(missing)}",
                remedy="install that for the gateway's Python, or let the gateway do so with PAM_SAAS_PIP=true",
            )
        with self._lock:
            _install(packages, missing)
        still = [wanted for wanted in missing if not _is_there(wanted)]
        if still:
            raise Unsupported(f"pip could not provide {', '.join(still)}", remedy="install it by hand")

    @property
    def _packages(self) -> Path | None:
        return self._folder / ".packages" if self._folder else None


def _plugins_of(path: Path) -> Iterator[type[SaasPlugin]]:
    """Yield the plugins of a file; one that cannot be loaded is told and left out, so that it harms no other."""
    name = "pam_saas_" + re.sub(r"\W", "_", path.stem)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return
    module: ModuleType = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - somebody else's code
        _log.error("saas_plugin_not_loaded", file=path.name, error=type(error).__name__)
        return
    sys.modules[name] = module
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, SaasPlugin) and kind.__module__ == name and not inspect.isabstract(kind):
            if isinstance(getattr(kind, "name", None), str) and kind.name.strip():
                yield kind
            else:
                _log.error("saas_plugin_without_name", file=path.name)


def _check_private(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(
            f"the folder of SaaS plugins cannot be read: {path} ({type(error).__name__})",
            remedy="correct PAM_SAAS_PLUGINS_DIR",
        ) from error
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"others could change a SaaS plugin: {path} is not the gateway's own",
            remedy=f"run `chown root {path}` and `chmod go-w {path}`",
        )


def _is_there(wanted: str) -> bool:
    try:
        requirement = Requirement(wanted)
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except (PackageNotFoundError, InvalidRequirement):
        return False


def _install(packages: Path, missing: list[str]) -> None:
    packages.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--target", str(packages), "--", *missing]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PAM_")}
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_PIP_SECONDS, env=environment)
    except (subprocess.SubprocessError, OSError) as error:
        _log.error("saas_pip_failed", error=type(error).__name__)
    _use(packages)


def _use(packages: Path) -> None:
    """Import from there what is installed nowhere else.

    Raises:
        ConfigurationError: others could change it.
    """
    _check_private(packages)
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    invalidate_caches()
