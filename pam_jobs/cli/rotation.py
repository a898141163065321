"""``pam rotation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pam_jobs.cli import rotation_script
from pam_jobs.cli.common import (
    Format,
    FormatOption,
    confirm,
    done,
    emit,
    group,
    is_interactive,
    note,
    print_pairs,
    print_table,
    vault,
    when,
)
from pam_jobs.cli.schedule import from_cron, from_json, from_texts, schedule_text
from pam_jobs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pam_jobs.client.rotation import Edit, Planned
    from pam_jobs.client.vault import VaultClient

app = group("Rotation settings of users.", short={"l": "list", "i": "info", "rm": "remove"}, alone="list")
app.add_typer(rotation_script.app, name="script")

_STATUS = {"ONLINE": "RRS_ONLINE", "OFFLINE": "RRS_CONTROLLER_DOWN", None: "RRS_NO_CONTROLLER"}


_Record = Annotated[str | None, typer.Option("--record", "-r", help="UID or title of a pamUser.")]
_Folder = Annotated[str | None, typer.Option("--folder", "-fd", help="All pamUser records of this folder.")]
_Config = Annotated[str | None, typer.Option("--config", "-c", help="UID or title of the configuration.")]
_Resource = Annotated[
    str | None, typer.Option("--resource", "-rs", help="UID or title of the machine, database or directory.")
]
_Admin = Annotated[
    str | None, typer.Option("--admin-user", "-a", help="UID or title of the user that administers the resource.")
]
_Profile = Annotated[str | None, typer.Option("--rotation-profile", "-rp", help="general, scripts_only or saas.")]
_Service = Annotated[
    str | None, typer.Option("--saas-config-uid", help="UID or title of the SaaS configuration; means -rp saas.")
]
_Cron = Annotated[
    list[str] | None, typer.Option("--schedulecron", "-sc", help="Cron of five fields, or Quartz; repeat.")
]
_Zone = Annotated[str, typer.Option("--timezone", help="IANA time zone of the cron.")]
_Json = Annotated[
    list[str] | None, typer.Option("--schedulejson", "-sj", help='Such as {"type":"DAILY","time":"02:30:00"}; repeat.')
]
_OnDemand = Annotated[bool, typer.Option("--on-demand", "-od", help="Only when asked for.")]
_Inherit = Annotated[bool, typer.Option("--schedule-config", "-sf", help="By the configuration's default schedule.")]
_Verify = Annotated[
    list[str] | None,
    typer.Option("--verify-schedule", "-vs", help="When to look for drift: a cron, or JSON as with -sj; repeat."),
]
_VerifyOnDemand = Annotated[bool, typer.Option("--verify-on-demand", "-vod", help="Look only when asked to.")]
_VerifyInherit = Annotated[
    bool, typer.Option("--verify-schedule-config", "-vsf", help="Look by the configuration's default schedule.")
]
_ScheduleOnly = Annotated[bool, typer.Option("--schedule-only", "-so", help="Change the schedule and nothing else.")]
_Complexity = Annotated[
    str | None, typer.Option("--complexity", "-x", help="LENGTH,UPPER,LOWER,DIGITS,SYMBOLS[,SPECIALS].")
]
_Enable = Annotated[bool, typer.Option("--enable", "-e", help="Rotate again.")]
_Disable = Annotated[bool, typer.Option("--disable", "-d", help="Keep the settings but do not rotate.")]
_Force = Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")]


@app.command("edit")
@app.command("new", hidden=True)
def edit(
    record: _Record = None,
    folder: _Folder = None,
    config: _Config = None,
    resource: _Resource = None,
    admin: _Admin = None,
    profile: _Profile = None,
    service: _Service = None,
    cron: _Cron = None,
    timezone: _Zone = "Etc/UTC",
    schedule_json: _Json = None,
    on_demand: _OnDemand = False,
    inherit: _Inherit = False,
    verify: _Verify = None,
    verify_on_demand: _VerifyOnDemand = False,
    verify_inherit: _VerifyInherit = False,
    schedule_only: _ScheduleOnly = False,
    complexity: _Complexity = None,
    enable: _Enable = False,
    disable: _Disable = False,
    force: _Force = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Set how, where and when users are rotated; what is not given stays."""
    from pam_jobs.client.rotation import Planner, Wishes
    from pam_jobs.records.complexity import Complexity

    if (record is None) == (folder is None):
        raise InvalidInput("name one record or one folder", remedy="give --record or --folder")
    if enable and disable:
        raise InvalidInput("rotation cannot be enabled and disabled at once", remedy="give one of the two")
    schedule = _schedule(cron, timezone, schedule_json, on_demand=on_demand, inherit=inherit)
    looking = _looking(verify, timezone, on_demand=verify_on_demand, inherit=verify_inherit)
    if schedule_only and (any((config, resource, admin, profile, service, complexity)) or enable or disable):
        raise InvalidInput("--schedule-only changes the schedule alone", remedy="leave the other options out")
    wishes = Wishes(
        configuration=config, resource=resource, admin=admin, profile=profile, service=service, schedule=schedule,
        inherits_schedule=inherit, verify_schedule=looking, inherits_verify_schedule=verify_inherit, complexity=Complexity.parse(complexity) if complexity else None,
        disabled=False if enable else True if disable else None,
    )  # fmt: skip
    with vault() as client:
        planner = Planner(client)
        if folder is None:
            records = [client.records.find(str(record))]
        else:
            place = client.folders.find(folder)
            records = [entry for entry in client.records.list(place) if entry.type == "pamUser"]
        plan = planner.plan(records, wishes)
        if folder is None and plan.skipped:
            raise plan.skipped[0][1]
        if not plan.planned:
            _print_skipped(plan)
            raise InvalidInput("no record can be changed", remedy="look at the reasons above")
        _print_skipped(plan)
        if folder is not None or is_interactive():
            if style is Format.TABLE and not force:
                _print_plan(plan)
            confirm(f"Change the rotation of {len(plan.planned)} records?", force=force)
        results = [_result(client, planned, planner.apply(planned)) for planned in plan.planned]
    _show(style, plan, results)


def _show(style: Format, plan: Edit, results: list[dict[str, Any]]) -> None:
    skipped = [
        {"record_uid": entry.uid, "title": entry.title, "reason": error.sentence()} for entry, error in plan.skipped
    ]

    def table() -> None:
        _print_plan(plan)
        note(f"rotation of {len(results)} {'record' if len(results) == 1 else 'records'} is set")

    emit(style, {"updated": results, "skipped": skipped}, table)


def _schedule(
    cron: list[str] | None, timezone: str, items: list[str] | None, *, on_demand: bool, inherit: bool
) -> list[dict[str, Any]] | None:
    """Return the schedule asked for, [] for on demand, None when none was."""
    if sum((bool(cron), bool(items), on_demand, inherit)) > 1:
        raise InvalidInput("several kinds of schedule were given", remedy="give one of -sc, -sj, -od and -sf")
    if cron:
        return from_cron(cron, timezone)
    if items:
        return [part for text in items for part in from_json(text)]
    return [] if on_demand else None


def _looking(texts: list[str] | None, timezone: str, *, on_demand: bool, inherit: bool) -> list[dict[str, Any]] | None:
    """Return the schedule of verifications asked for, [] for on demand, None when none was."""
    if sum((bool(texts), on_demand, inherit)) > 1:
        raise InvalidInput(
            "several kinds of schedule were given for verifications", remedy="give one of -vs, -vod and -vsf"
        )
    if texts:
        return from_texts(texts, timezone)
    return [] if on_demand else None


def _looking_text(schedule: list[dict[str, Any]] | None) -> str:
    return schedule_text(schedule or [], inherits=schedule is None, manual="[On demand]")


def _print_skipped(plan: Edit) -> None:
    if plan.skipped:
        note("Records skipped:")
        for entry, error in plan.skipped:
            note(f"  {entry.title} ({entry.uid}): {error.sentence()}")


def _print_plan(plan: Edit) -> None:
    print_table(
        ["Record UID", "Title", "Profile", "Resource", "Admin", "Schedule", "Verified", "Configuration"],
        [
            (
                planned.stored.uid,
                planned.stored.title,
                planned.change.profile,
                planned.resource.title if planned.resource else None,
                planned.admin.title if planned.admin else None,
                schedule_text(planned.change.schedule, inherits=planned.change.inherits_schedule),
                _looking_text(planned.change.verify_schedule),
                planned.configuration.title,
            )
            for planned in plan.planned
        ],
    )


def _result(client: VaultClient, planned: Planned, answer: dict[str, Any]) -> dict[str, Any]:
    settings = answer if "next_run_at" in answer else client.pam.rotation(planned.stored.uid) or {}
    return {
        "record_uid": planned.stored.uid,
        "title": planned.stored.title,
        "profile": planned.change.profile,
        "configuration_uid": planned.configuration.uid,
        "resource_uid": planned.change.resource_uid,
        "admin_uid": planned.change.admin_uid,
        "schedule": planned.change.schedule,
        "next_run_at": settings.get("next_run_at"),
        "verify_schedule": planned.change.verify_schedule,
        "next_verify_at": settings.get("next_verify_at"),
        "revision": settings.get("revision"),
    }


@app.command("list")
def list_(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show next and last runs.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """List the users that have rotation settings."""
    with vault() as client:
        records = {entry.uid: entry for entry in client.records.list()}
        rows = [_row(settings, records) for settings in client.pam.rotations()]
    columns = ["Record UID", "Title", "Type", "Schedule", "Gateway", "Configuration", "Drift"]
    names = ["record_uid", "title", "type", "schedule", "gateway_name", "configuration", "drift_state"]
    if verbose:
        columns += ["Next run", "Last rotated", "Verified", "Next check", "Checked", "Enabled"]
    emit(
        style,
        {"rotation": rows},
        lambda: print_table(
            columns,
            [[row[name] for name in names] + (_more(row) if verbose else []) for row in rows],
            empty="no user has rotation settings; set them with `pam rotation edit`",
        ),
    )


def _more(row: dict[str, Any]) -> list[object]:
    drift = row["drift"] or {}
    return [
        when(row["next_run_at"]),
        when(row["last_rotated_at"]),
        row["verify_schedule"],
        when(row["next_verify_at"]),
        when(drift.get("checked_at")),
        row["enabled"],
    ]


def _row(settings: dict[str, Any], records: dict[str, Any]) -> dict[str, Any]:
    stored = records.get(settings["record_uid"])
    configuration = records.get(settings["configuration_uid"])
    return {
        "record_uid": settings["record_uid"],
        "title": stored.title if stored else None,
        "type": stored.type if stored else None,
        "schedule": schedule_text(settings.get("schedule") or [], inherits=bool(settings.get("inherits_schedule"))),
        "gateway_uid": settings.get("gateway_uid"),
        "gateway_name": settings.get("gateway_name"),
        "configuration_uid": settings["configuration_uid"],
        "configuration": configuration.title if configuration else None,
        "profile": settings.get("profile"),
        "next_run_at": settings.get("next_run_at"),
        "last_rotated_at": settings.get("last_rotated_at"),
        "verify_schedule": _looking_text(settings.get("verify_schedule")),
        "next_verify_at": settings.get("next_verify_at"),
        "drift": settings.get("drift"),
        "drift_state": (settings.get("drift") or {}).get("state"),
        "enabled": "no" if settings.get("disabled") else "yes",
    }


@app.command("info")
def info(
    record: Annotated[str, typer.Option("--record-uid", "-r", help="UID or title of the user.")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Show a user's rotation settings, and whether it is ready to be rotated."""
    from pam_jobs.client.pam import open_complexity

    with vault() as client:
        stored = client.records.find(record)
        settings = client.pam.rotation(stored.uid)
        if settings is None:
            value: dict[str, Any] = {"record_uid": stored.uid, "status": "RRS_NO_ROTATION", "ready_to_rotate": False}
        else:
            complexity = open_complexity(settings.get("complexity"), stored.key)
            value = _info(stored.uid, settings, complexity.to_line() if complexity else None)
    emit(style, value, lambda: print_pairs(_pairs(stored.title, value)))


def _info(uid: str, settings: dict[str, Any], complexity: str | None) -> dict[str, Any]:
    schedule = settings.get("effective_schedule") or settings.get("schedule") or []
    return {
        "record_uid": uid,
        "status": _STATUS.get(settings.get("gateway_status"), "RRS_CONTROLLER_DOWN"),
        "ready_to_rotate": bool(settings.get("ready")),
        "blockers": settings.get("blockers") or [],
        "rotation_profile": settings.get("profile"),
        "pam_config_uid": settings.get("configuration_uid"),
        "gateway_name": settings.get("gateway_name"),
        "gateway_uid": settings.get("gateway_uid"),
        "admin_resource_uid": settings.get("resource_uid"),
        "admin_uid": settings.get("admin_uid"),
        "password_complexity": complexity,
        "schedule_type": "scheduled" if schedule else "manual",
        "schedule_data": schedule,
        "use_default_rotation_schedule": bool(settings.get("inherits_schedule")),
        "disabled": bool(settings.get("disabled")),
        "next_run_at": settings.get("next_run_at"),
        "last_rotated_at": settings.get("last_rotated_at"),
        "last_probe": settings.get("last_probe"),
        "verify_schedule": settings.get("verify_schedule"),
        "effective_verify_schedule": settings.get("effective_verify_schedule") or [],
        "next_verify_at": settings.get("next_verify_at"),
        "drift": settings.get("drift"),
        "revision": settings.get("revision"),
    }


def _pairs(title: str, value: dict[str, Any]) -> dict[str, object]:
    pairs: dict[str, object] = {"Record": f"{title} ({value['record_uid']})", "Status": value["status"]}
    if "rotation_profile" in value:
        pairs |= {
            "Ready": "yes" if value["ready_to_rotate"] else "no",
            "Profile": value["rotation_profile"],
            "Gateway": value["gateway_name"],
            "Configuration UID": value["pam_config_uid"],
            "Resource UID": value["admin_resource_uid"],
            "Admin UID": value["admin_uid"],
            "Complexity": value["password_complexity"],
            "Schedule": schedule_text(value["schedule_data"], inherits=False),
            "Next run": when(value["next_run_at"]),
            "Last rotated": when(value["last_rotated_at"]),
            "Verified": schedule_text(value["effective_verify_schedule"], inherits=False, manual="[On demand]"),
            "Next check": when(value["next_verify_at"]),
            "Drift": _drift(value["drift"] or {}),
            "Rotation": "disabled" if value["disabled"] else "enabled",
        }
    for number, sentence in enumerate(value.get("blockers") or [], start=1):
        pairs[f"Blocker {number}"] = sentence
    return pairs


def _drift(drift: dict[str, Any]) -> str:
    cause = f" ({drift['cause']})" if drift.get("cause") else ""
    checked = f", checked {when(drift['checked_at'])}" if drift.get("checked_at") else ""
    return f"{drift.get('state')}{cause} since {when(drift.get('since')) or '-'}{checked}"


@app.command("remove")
def remove(
    record: Annotated[str, typer.Option("--record", "-r", help="UID or title of the user.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Do not ask.")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Forget a user's rotation settings; its record stays."""
    with vault() as client:
        stored = client.records.find(record)
        if client.pam.rotation(stored.uid) is None:
            raise NotFound(f"{stored.title} has no rotation settings", remedy="look at `pam rotation list`")
        confirm(f"Forget the rotation settings of {stored.title}?", force=force)
        client.pam.remove_rotation(stored.uid)
    done({"record_uid": stored.uid}, f"{stored.title} is no longer rotated", style)
