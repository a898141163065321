"""A gateway's own account on a real broker: enough for its work, and nothing of another's; over TLS that checks."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import amqp.exceptions
import pytest
import redis
from kombu import Connection
from kombu.exceptions import OperationalError
from typer.testing import CliRunner

from deploy.lab import PostgresServer
from deploy.lab.processes import free_port
from pam_jobs.api import pam
from pam_jobs.app import make_app, own_keys, queue_name
from pam_jobs.broker_access import Account, BrokerKind, account
from pam_jobs.cli import gateway
from pam_jobs.clock import SystemClock
from pam_jobs.crypto.tls import TlsFiles, ensure_tls
from pam_jobs.db.engine import Database
from pam_jobs.errors import ConfigurationError
from pam_jobs.ids import new_uid
from pam_jobs.secret import SecretValue
from tests.integration.test_gateway_postgres import Targets
from tests.support.compose import load as compose
from tests.support.fleet import new_fleet
from tests.support.gateway_site import GatewaySite
from tests.support.router import RunningRouter
from tests.support.servers import Control, rabbitmq, redis_server
from tests.support.small_router import small_router

pytestmark = pytest.mark.integration


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A broker with a password for the control plane, in clear and over TLS."""

    url: str
    tls_port: int
    ca: Path
    make: Callable[[Account], None]  # does what the printed commands say

    def gateway_url(self, made: Account, *, scheme: str, ca: Path | None = None, host: str = "localhost") -> str:
        tail = "/0" if scheme == "rediss" else "//"
        return f"{scheme}://{made.url_user}@{host}:{self.tls_port}{tail}" + (f"?ssl_ca_certs={ca}" if ca else "")


def certificates(folder: Path) -> TlsFiles:
    return ensure_tls(folder / "tls", ["localhost"], SystemClock())


@pytest.fixture(scope="module")
def redis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    files, port, password = certificates(tmp_path_factory.mktemp("redis")), free_port(), secrets.token_urlsafe(18)
    config = (
        f"requirepass {password}\ntls-port {port}\ntls-cert-file {files.certificate}\ntls-key-file {files.key}\n"
        f"tls-ca-cert-file {files.ca}\ntls-auth-clients no\nsave ''\n"
    )
    with redis_server(config, password) as url, redis.Redis.from_url(url) as admin:

        def make(made: Account) -> None:
            for command in made.commands:
                admin.execute_command(*shlex.split(command))

        yield Broker(url=url, tls_port=port, ca=files.ca, make=make)


@pytest.fixture(scope="module")
def rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    files, port = certificates(tmp_path_factory.mktemp("rabbitmq")), free_port()
    config = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {files.ca}\n"
        f"ssl_options.certfile = {files.certificate}\nssl_options.keyfile = {files.key}\n"
    )
    controls: list[Control] = []
    with rabbitmq(config, controls.append) as url:

        def make(made: Account) -> None:
            for command in made.commands:
                program, *arguments = shlex.split(command)
                assert program == "rabbitmqctl"
                controls[0](*arguments, text=made.password.reveal() + "\n" if arguments[0] == "add_user" else "")

        yield Broker(url=url, tls_port=port, ca=files.ca, make=make)


def new_account(kind: BrokerKind, gateway_uid: str | None = None) -> Account:
    return account(kind, gateway_uid or new_uid(), SecretValue(secrets.token_urlsafe(32)))


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> tuple[BrokerKind, Broker]:
    return BrokerKind(request.param), request.getfixturevalue(f"{request.param}_broker")


SCHEMES = {BrokerKind.REDIS: "rediss", BrokerKind.RABBITMQ: "amqps"}


def test_a_gateway_works_over_tls_with_its_own_account(
    broker: tuple[BrokerKind, Broker], sqlite_router: RunningRouter, target_postgres: PostgresServer, tmp_path: Path
) -> None:
    kind, server = broker
    site = GatewaySite(sqlite_router, tmp_path, port_mapping=f"{target_postgres.port}=postgresql")
    publisher = site.publish(server.url)
    publisher.declare_queues([site.gateway_uid])
    targets = Targets(site, target_postgres)
    made = new_account(kind, site.gateway_uid)
    server.make(made)
    url = server.gateway_url(made, scheme=SCHEMES[kind], ca=server.ca)
    login, uid = targets.add_role()
    with site.process(url) as process:
        process.wait_for("gateway_ready")
        for _ in range(2):
            job = site.vault.jobs.wait(site.submit("rotate", uid), seconds=20)
            assert job["state"] == "succeeded", process.log()
        assert targets.logs_in(login, site.password(uid))
        process.wait_for("gateway_ready")
        assert made.password.reveal() not in process.log()
    publisher.close()
    if kind is BrokerKind.REDIS:
        with redis.Redis.from_url(server.url) as admin:
            denied = [entry for entry in admin.acl_log() if entry["username"] == made.user]
            assert [entry["object"] for entry in denied if entry["object"] != "client|setinfo"] == []


def test_what_a_stopped_gateway_had_taken_comes_back_under_its_account(redis_broker: Broker) -> None:
    made = new_account(BrokerKind.REDIS)
    redis_broker.make(made)
    uid = made.queue.removeprefix("gateway.")
    url = redis_broker.gateway_url(made, scheme="rediss", ca=redis_broker.ca)
    app = make_app(url, gateway_uid=uid, visibility_seconds=0)
    with redis.Redis.from_url(redis_broker.url) as admin, app.connection_for_read() as connection:
        with Connection(redis_broker.url, transport_options={"priority_steps": [0]}) as control:
            control.Producer().publish({"job": "1"}, routing_key=made.queue, exchange="")
        channel = connection.channel()
        assert channel.basic_get(made.queue) is not None
        assert (admin.llen(made.queue), admin.hlen(own_keys(uid)["unacked_key"])) == (0, 1)
        channel.qos.restore_visible()
        assert (admin.llen(made.queue), admin.hlen(own_keys(uid)["unacked_key"])) == (1, 0)


def test_on_redis_nothing_of_another_gateway_is_reached(redis_broker: Broker) -> None:
    mine, other = new_account(BrokerKind.REDIS), new_account(BrokerKind.REDIS)
    redis_broker.make(mine)
    other_uid = other.queue.removeprefix("gateway.")
    unacked = own_keys(other_uid)
    with redis.Redis.from_url(redis_broker.url) as admin:
        admin.lpush(other.queue, "theirs")
        admin.hset(unacked["unacked_key"], "tag", "theirs")
        admin.zadd(unacked["unacked_index_key"], {"tag": 1})
        url = redis_broker.gateway_url(mine, scheme="rediss", ca=redis_broker.ca)
        with redis.Redis.from_url(url) as me:
            forbidden = [
                ("BRPOP", other.queue, 1), ("RPOP", other.queue), ("LRANGE", other.queue, 0, -1), ("LLEN", other.queue),
                ("LPUSH", other.queue, "forged"), ("RPUSH", other.queue, "forged"), ("DEL", other.queue),
                ("LPUSH", mine.queue + "x", "forged"), ("LPUSH", queue_name(""), "forged"),
                ("RPOPLPUSH", other.queue, mine.queue), ("RENAME", other.queue, mine.queue), ("COPY", other.queue, mine.queue),
                ("HGET", unacked["unacked_key"], "tag"), ("HGETALL", unacked["unacked_key"]),
                ("HDEL", unacked["unacked_key"], "tag"), ("ZREM", unacked["unacked_index_key"], "tag"),
                ("ZRANGE", unacked["unacked_index_key"], 0, -1), ("SET", unacked["unacked_mutex_key"], "1"),
                ("EVAL", "return redis.call('lpush', KEYS[1], 'forged')", 1, other.queue),
                ("EVAL", f"return redis.call('lpush', '{other.queue}', 'forged')", 0),
                ("LPUSH", "control", "forged"), ("LPUSH", "celery", "forged"), ("GET", "control:unacked_mutex"),
                ("LPUSH", "celery.pidbox", "x"), ("SADD", "_kombu.binding.celeryev", "x"), ("PUBLISH", "/0.celeryev/x", "x"),
                ("PUBLISH", "/0.celery.pidbox", "shutdown"), ("SUBSCRIBE", "/0.celeryev/x"), ("PSUBSCRIBE", "*"),
                ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("MONITOR",),
                ("ACL", "LIST"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", 1), ("SCRIPT", "FLUSH"), ("SHUTDOWN",),
                ("REPLICAOF", "127.0.0.1", 1), ("MIGRATE", "127.0.0.1", 1, other.queue, 0, 1),
            ]  # fmt: skip
            for command in forbidden:
                with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|NOPERM|can't access|key name"):
                    me.execute_command(*command)
            me.execute_command("SELECT", 1)
            with pytest.raises(redis.exceptions.NoPermissionError):
                me.execute_command("LPUSH", other.queue, "forged")
        assert admin.lrange(other.queue, 0, -1) == [b"theirs"]
        assert admin.hgetall(unacked["unacked_key"]) == {b"tag": b"theirs"}


def test_the_configuration_of_compose_has_redis_start_with_the_gateways_account() -> None:
    # Given docker-compose.yml, with the lines that `pam gateway broker-acl --dotenv` prints for its .env
    made, password = new_account(BrokerKind.REDIS), secrets.token_urlsafe(18)
    printed = dict(line.split("=", 1) for line in made.dotenv("redis"))
    names = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD", "SANDBOX_PASSWORD")
    document = compose(dict.fromkeys(names, password) | {name: value.strip("'") for name, value in printed.items()})
    # When Redis reads it (but for the image's folder)
    config = document["configs"]["redis"]["content"].replace("dir /data\n", "")
    with redis_server(config, password) as url, redis.Redis.from_url(url) as admin:
        queues = (made.queue, new_account(BrokerKind.REDIS).queue, "control")
        for queue in queues:
            admin.lpush(queue, "message")
        # Then the gateway of that file takes from its own queue, and from no other
        broker_url = document["services"]["gateway"]["environment"]["PAM_BROKER_URL"]
        assert broker_url.endswith("@redis:6379/0")
        with redis.Redis.from_url(broker_url.replace("redis:6379", url.rpartition("@")[2].removesuffix("/0"))) as me:
            assert me.brpop([made.queue], 1) == (made.queue.encode(), b"message")
            for queue in queues[1:]:
                for command in (("BRPOP", queue, 1), ("LPUSH", queue, "forged"), ("DEL", queue)):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        me.execute_command(*command)
            with pytest.raises(redis.exceptions.NoPermissionError):
                me.execute_command("ACL", "LIST")
        # and who has no password has nothing
        with (
            redis.Redis.from_url(f"redis://{url.rpartition('@')[2]}") as nobody,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            nobody.llen(made.queue)
        assert [admin.llen(queue) for queue in queues] == [0, 1, 1]


def test_on_rabbitmq_nothing_of_another_gateway_is_reached(rabbitmq_broker: Broker) -> None:
    mine, other = new_account(BrokerKind.RABBITMQ), new_account(BrokerKind.RABBITMQ)
    rabbitmq_broker.make(mine)
    url = rabbitmq_broker.gateway_url(mine, scheme="amqps", ca=rabbitmq_broker.ca)

    def refused(action: Callable[[amqp.Channel], object]) -> None:
        with make_app(url).connection_for_read() as me, pytest.raises(amqp.exceptions.AccessRefused):
            action(me.channel())

    def publish(channel: amqp.Channel, queue: str, exchange: str = "") -> None:
        channel.confirm_select()
        channel.basic_publish_confirm(amqp.Message("forged"), exchange=exchange, routing_key=queue)

    with Connection(rabbitmq_broker.url) as admin:
        channel = admin.channel()
        for queue in (mine.queue, other.queue, mine.queue + "x"):
            channel.queue_declare(queue=queue, durable=True, auto_delete=False)
            channel.basic_publish(amqp.Message("theirs"), exchange="", routing_key=queue)
        for queue in (other.queue, mine.queue + "x"):
            refused(lambda me, queue=queue: me.basic_get(queue))
            refused(lambda me, queue=queue: me.basic_consume(queue))
            refused(lambda me, queue=queue: me.queue_purge(queue))
            refused(lambda me, queue=queue: me.queue_delete(queue))
            refused(lambda me, queue=queue: publish(me, queue))
            refused(lambda me, queue=queue: me.queue_bind(queue, "amq.topic", "#"))
            assert channel.queue_declare(queue=queue, passive=True).message_count == 1
        refused(lambda me: publish(me, mine.queue))  # not even to itself
        refused(lambda me: publish(me, "task.multi", "celeryev"))
        refused(lambda me: me.exchange_declare("celery.pidbox", "fanout", auto_delete=False))
        refused(lambda me: me.queue_declare(queue="spy", auto_delete=False))
        with make_app(url).connection_for_read() as me:
            assert me.channel().basic_get(mine.queue).body == "theirs"


def test_a_broker_with_another_certificate_is_not_talked_to(broker: tuple[BrokerKind, Broker], tmp_path: Path) -> None:
    kind, server = broker
    made, other_ca = new_account(kind), certificates(tmp_path).ca
    server.make(made)

    def connects(ca: Path | None, host: str = "localhost") -> bool:
        url = server.gateway_url(made, scheme=SCHEMES[kind], ca=ca, host=host)
        with make_app(url, bounded=True).connection_for_read() as connection:
            try:
                connection.connect()
                connection.default_channel.client.ping() if kind is BrokerKind.REDIS else None
            except (OSError, redis.ConnectionError, OperationalError):
                return False
            return True

    assert connects(server.ca)
    assert not connects(other_ca)
    assert not connects(None)  # of a CA that the system does not know
    assert not connects(server.ca, host="127.0.0.1")  # the certificate is for localhost


@pytest.mark.parametrize(
    "url",
    [
        "rediss://broker/0?ssl_cert_reqs=none",
        "rediss://broker/0?ssl_check_hostname=false",
        "amqps://broker//?ssl_cert_reqs=CERT_NONE",
        "redis://broker/0?ssl_ca_certs=/ca.pem",
    ],
)
def test_tls_that_does_not_check_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ssl_"):
        make_app(url)


def test_the_command_prints_what_makes_the_account(
    sqlite_database: Database, tmp_path: Path, redis_broker: Broker
) -> None:
    fleet = new_fleet(sqlite_database)
    with small_router(sqlite_database, tmp_path, pam.router) as router:
        environment = router.sign_in("admin", tmp_path / "data")

        def run(*arguments: str) -> str:
            result = CliRunner().invoke(gateway.app, ["broker-acl", "-g", "office", *arguments], env=environment)
            assert result.exit_code == 0, result.output
            return result.stdout

        told = json.loads(run("--host", "broker.example.com", "--format", "json"))
        again = json.loads(run("--format", "json"))
        text = run("--broker", "rabbitmq")
    assert (told["gateway"], told["queue"]) == (fleet.gateway_uid, queue_name(fleet.gateway_uid))
    assert told["broker_url"] == f"rediss://{told['user']}:{told['password']}@broker.example.com:6379/0"
    assert told["password"] not in " ".join([*told["commands"], told["configuration_line"]])
    assert again["password"] != told["password"]
    with redis.Redis.from_url(redis_broker.url) as admin:
        for command in told["commands"]:
            admin.execute_command(*shlex.split(command))
        admin.execute_command("AUTH", told["user"], told["password"])
    line = told["configuration_line"]
    with redis_server(f"{line}\nuser default off\n", "") as url:
        port = url.rpartition(":")[2].partition("/")[0]
        with redis.Redis(port=int(port), username=told["user"], password=told["password"]) as me:
            assert me.llen(told["queue"]) == 0
    assert "rabbitmqctl add_user" in text
    assert "PAM_BROKER_URL=amqps://" in text
