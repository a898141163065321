"""One scheduler of others at its work: ``python peer_work.py NAME SCHEDULES SECONDS BROKER_URL DATABASE_URL``.

Runs in an environment that has these packages and none of ours. All schedules are due; each is put on a Redis queue. Prints
one JSON line: how many were sent, in how long, how long it took to load them, and the process's memory.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from celery import Celery
from celery.schedules import schedule as every

DAY = timedelta(days=1)


def main() -> None:
    name, count, seconds, broker, database = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
    app = Celery("peer", broker=broker)
    app.conf.update(task_default_queue="peer", task_ignore_result=True, beat_max_loop_interval=1, enable_utc=True)
    app.conf.redbeat_redis_url = broker.replace("redis+socket://", "unix://")
    with app.connection_for_write() as connection:
        redis = connection.default_channel.client
        redis.flushall()
        begin = time.perf_counter()
        turn = WORK[name](app, count, database)
        loaded = time.perf_counter() - begin
        begin = time.perf_counter()
        while (sent := redis.llen("peer")) < count and time.perf_counter() - begin < seconds:
            turn()
        took = time.perf_counter() - begin
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    print(json.dumps({"sent": sent, "seconds": took, "loaded": loaded, "memory": int(line.split()[1]) / 1024}))
    sys.stdout.flush()
    sys.exit(0)


def celery_beat(app, count, _database):
    from celery.beat import Scheduler

    app.conf.beat_schedule = {f"e{n}": {"task": "t", "args": [n], "schedule": every(DAY)} for n in range(count)}
    scheduler = Scheduler(app)
    for entry in scheduler.schedule.values():
        entry.last_run_at = datetime.now(UTC) - 2 * DAY
    return scheduler.tick


def redbeat(app, count, _database):
    from redbeat import RedBeatScheduler, RedBeatSchedulerEntry
    from redbeat.schedulers import acquire_distributed_beat_lock

    for number in range(count):
        entry = RedBeatSchedulerEntry(f"e{number}", "t", every(DAY), args=[number], app=app)
        entry.last_run_at = datetime.now(UTC) - 2 * DAY
        entry.save()
    scheduler = RedBeatScheduler(app, lazy=True)
    acquire_distributed_beat_lock(SimpleNamespace(scheduler=scheduler))  # as beat itself does before it begins
    return scheduler.tick


def django_celery_beat(app, count, database):
    from urllib.parse import urlsplit

    import django
    from django.conf import settings

    parts = urlsplit(database)
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"], USE_TZ=True, TIME_ZONE="UTC",
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username,
            "PASSWORD": parts.password, "HOST": parts.hostname, "PORT": parts.port,
        }},
    )  # fmt: skip
    django.setup()
    from django.core.management import call_command
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    from django_celery_beat.schedulers import DatabaseScheduler

    call_command("migrate", verbosity=0)
    daily, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.DAYS)
    old = datetime.now(UTC) - 2 * DAY
    PeriodicTask.objects.bulk_create(
        [PeriodicTask(name=f"e{n}", task="t", args=f"[{n}]", interval=daily, last_run_at=old) for n in range(count)],
        batch_size=1000,
    )
    return DatabaseScheduler(app).tick


_HELD = {}


def _send(number):
    _HELD["app"].send_task("t", args=[number])


def apscheduler(app, count, database):
    _HELD["app"] = app
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from apscheduler.schedulers.background import BackgroundScheduler

    store = SQLAlchemyJobStore(url=database.replace("postgresql://", "postgresql+psycopg://"))
    scheduler = BackgroundScheduler(jobstores={"default": store}, executors={"default": ThreadPoolExecutor(10)})
    scheduler.start(paused=True)
    now = datetime.now(UTC)
    for number in range(count):
        scheduler.add_job(
            "__main__:_send", "interval", days=1, args=[number], next_run_time=now, misfire_grace_time=None
        )
    scheduler.resume()
    return lambda: time.sleep(0.05)


WORK = {
    "celery beat": celery_beat,
    "celery-redbeat": redbeat,
    "django-celery-beat": django_celery_beat,
    "APScheduler": apscheduler,
}

if __name__ == "__main__":
    main()
