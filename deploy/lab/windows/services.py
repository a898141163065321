"""What the programs for services, tasks, pools and components do on the emulated machine."""

from __future__ import annotations

import time
from typing import Any

from connectors.windows import service_programs as programs
from deploy.lab.windows.machine import Code, Component, Machine, Pool, Refusal, Service, Task
from deploy.lab.windows.programs import Call, handles

__all__ = ["COM_PASSWORD_REFUSED"]

COM_PASSWORD_REFUSED = Code.LOGON_FAILURE
_CHANGE_DENIED = 2  # what Win32_Service.Change answers
_LOGONS = {
    "Password": 1,
    "S4U": 2,
    "InteractiveToken": 3,
    "Group": 4,
    "ServiceAccount": 5,
    "InteractiveTokenOrPassword": 6,
}


@handles(programs.SERVICE_FIND)
def _find_service(call: Call) -> dict[str, Any] | None:
    machine, service = call.machine, call.machine.services.get(str(call.facts["name"]).lower())
    if service is None:
        return None
    user = machine.users.get(str(call.facts["login"]).lower())
    return {
        "name": service.name, "account": service.account, "state": service.state, "computer": machine.name,
        "ran": time.time() - service.started_at if service.state == "Running" else None,
        "age": int(time.time() - user.last_set) if user is not None else None,
        "left": service.name.lower() in machine.restarts,
    }  # fmt: skip


@handles(programs.SERVICE_SET)
def _set_service(call: Call) -> int:
    if not call.caller.admin:
        return _CHANGE_DENIED
    call.machine.service(call.facts["name"]).stored = call.secrets[0]  # the service manager does not try it
    return 0


@handles(programs.SERVICE_RESTART)
def _restart_service(call: Call) -> dict[str, Any]:
    call.require_admin()
    machine, service = call.machine, call.machine.service(call.facts["name"])
    order = machine.stop_service(service.name, with_dependants=True)[::-1] if service.state == "Running" else []
    order = order or [service.name]
    order += [name for name in machine.restarts.get(service.name.lower(), []) if name not in order]
    machine.restarts[service.name.lower()] = order
    started: list[str] = []
    failed: list[dict[str, Any]] = []
    for name in order:
        try:
            machine.start_service(name)
        except Refusal as refusal:
            if refusal.code is Code.SERVICE_ALREADY_RUNNING:
                continue
            failed.append({"name": name, "code": int(refusal.code), "text": refusal.text})
            if name == service.name:
                break
        else:
            started.append(name)
    del machine.restarts[service.name.lower()]
    return {"started": started, "failed": failed}


@handles(programs.TASK_FIND)
def _find_task(call: Call) -> dict[str, Any] | None:
    task = call.machine.tasks.get(call.facts["name"].lower())
    if task is None:
        return None
    return {"name": task.path, "account": task.account, "logon": _LOGONS[task.logon], "computer": call.machine.name}


@handles(programs.TASK_SET)
def _set_task(call: Call) -> str:
    call.require_admin()
    task = call.machine.tasks[call.facts["name"].lower()]
    code = call.machine.log_on(task.account, call.secrets[0])  # the scheduler tries it
    if code is not Code.OK:
        raise Refusal(code)
    task.stored = call.secrets[0]
    return task.path


@handles(programs.POOL_SET)
def _set_pool(call: Call) -> dict[str, Any] | None:
    call.require_admin()
    pool = next((each for each in call.machine.pools.values() if each.name.lower() == call.facts["name"].lower()), None)
    if pool is None:
        return None
    told = {
        "name": pool.name, "account": pool.account, "identity": pool.identity, "computer": call.machine.name,
        "done": False, "state": pool.state, "recycled": False,
    }  # fmt: skip
    if pool.identity == "SpecificUser" and pool.account.lower() in call.facts["names"]:
        if pool.stored == call.secrets[0]:
            return told | {"done": True}
        pool.stored = call.secrets[0]
        told["set"] = True
        if pool.state == "Started":
            pool.recycles += 1
            told["recycled"] = True
            pool.state = "Started" if call.machine.stored_logs_on(pool.account, pool.stored) else "Stopped"
    return told


@handles(programs.COM_PLUS_SET)
def _set_com_plus(call: Call) -> dict[str, Any] | None:
    call.require_admin()
    found = _component(call, {"com_plus"})
    if found is None:
        return None
    told: dict[str, Any] = {
        "name": found.name, "account": found.account, "computer": call.machine.name, "restarted": False,
    }  # fmt: skip
    if found.account.lower() in call.facts["names"]:
        if not call.machine.stored_logs_on(found.account, call.secrets[0]):  # the catalog tries it
            raise Refusal(COM_PASSWORD_REFUSED)
        found.stored = call.secrets[0]
        told["set"] = True
        if found.is_running:
            found.starts += 1
            told["restarted"] = True
    return told


@handles(programs.DCOM_SET)
def _set_dcom(call: Call) -> dict[str, Any] | None:
    call.require_admin()
    found = _component(call, {"com", "dcom"})
    if found is None:
        return None
    told: dict[str, Any] = {"name": found.key, "account": found.account, "computer": call.machine.name}
    if found.account.lower() in call.facts["names"]:
        if not call.machine.can_compile:
            raise Refusal(Code.ACCESS_DENIED, "System.Management.Automation.PSNotSupportedException")
        found.stored = call.secrets[0]
        told["set"] = 0
    return told


def _component(call: Call, kinds: set[str]) -> Component | None:
    wanted = call.facts["name"].lower()
    return next(
        (
            each
            for each in call.machine.components.values()
            if each.kind in kinds and wanted in {each.name.lower(), each.key.lower()}
        ),
        None,
    )


def _pairs(machine: Machine, kind: str) -> list[dict[str, str]]:
    def name_of(each: Service | Task | Pool | Component) -> str:
        return each.path if isinstance(each, Task) else each.key if kind == "dcom" else each.name  # type: ignore[union-attr]

    chosen: dict[str, list[Any]] = {
        "service": list(machine.services.values()),
        "task": [each for each in machine.tasks.values() if _LOGONS[each.logon] in {1, 6}],
        "iis_pool": [each for each in machine.pools.values() if each.identity == "SpecificUser"],
        "com_plus": [each for each in machine.components.values() if each.kind == "com_plus"],
        "dcom": [each for each in machine.components.values() if each.kind in {"com", "dcom"}],
    }
    return [{"name": name_of(each), "account": each.account} for each in chosen[kind]]


@handles(programs.LISTS["service"])
def _list_services(call: Call) -> list[dict[str, str]]:
    return _pairs(call.machine, "service")


@handles(programs.LISTS["task"])
def _list_tasks(call: Call) -> list[dict[str, str]]:
    return _pairs(call.machine, "task")


@handles(programs.LISTS["iis_pool"])
def _list_pools(call: Call) -> list[dict[str, str]]:
    return _pairs(call.machine, "iis_pool")


@handles(programs.LISTS["com_plus"])
def _list_com_plus(call: Call) -> list[dict[str, str]]:
    return _pairs(call.machine, "com_plus")


@handles(programs.LISTS["dcom"])
def _list_dcom(call: Call) -> list[dict[str, str]]:
    return _pairs(call.machine, "dcom")
