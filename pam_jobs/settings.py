"""Settings of every process, from ``PAM_*`` environment variables."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ControlSettings", "GatewaySettings"]


class ControlSettings(BaseSettings):
    """What router, beat and control need. The same values go to each of them."""

    model_config = SettingsConfigDict(env_prefix="PAM_", extra="ignore")

    database_url: str = Field(description="sqlite:///path, or postgresql://user:password@host/name")
    broker_url: str = Field(
        description="redis+socket:///path, redis://…, rediss://…, amqp://… or amqps://…; ?ssl_ca_certs=FILE"
    )
    keys_dir: Path = Field(description="folder (0700) of the router's keys and TLS files; made at the first start")
    public_host: str = Field("localhost:8443", description="host:port that clients and gateways use")
    listen_host: str = Field("127.0.0.1", description="address the router listens on")
    listen_port: int = Field(8443, ge=0, le=65535)
    tls_names: str = Field("localhost,127.0.0.1", description="names and addresses in the router's certificate")
    lease_seconds: int = Field(60, ge=5, le=3600, description="how long a lease lasts without renewal")
    message_seconds: int = Field(86_400, ge=60, description="how long a published message is valid")
    republish_seconds: int = Field(30, ge=1, description="a queued job not leased after this is published again")
    reconcile_seconds: float = Field(5.0, gt=0, description="how often the reconciler looks")
    sink_seconds: float = Field(1.0, gt=0, description="how often audit sinks are served")
    offline_seconds: int = Field(30, ge=5, description="an instance not heard of for this long is offline")
    events: bool = Field(default=True, description="send worker and task events for Flower")
    minimum_interval_seconds: int = Field(3600, ge=0, description="shortest interval a schedule may have; 0 allows any")
    ksm_requests_per_10s: int = Field(100, ge=1, description="requests a KSM client may make to one endpoint in 10 s")
    max_file_bytes: int = Field(32 * 2**20, ge=1, description="largest file a record may have, as ciphertext")
    log_json: bool = Field(default=True)

    @cached_property
    def tls_name_list(self) -> list[str]:
        """Return the certificate's names."""
        return [name.strip() for name in self.tls_names.split(",") if name.strip()]


class GatewaySettings(BaseSettings):
    """What a gateway process needs beside its identity (``gateway-config.json`` or ``GATEWAY_CONFIG``)."""

    model_config = SettingsConfigDict(env_prefix="PAM_", extra="ignore")

    broker_url: str = Field(min_length=1, description="as the control plane's, with an account of the gateway's own")
    ca_file: Path | None = Field(None, description="CA of the router's certificate; absent: the system's CAs")
    gateway_concurrency: int = Field(8, ge=1, le=64, description="jobs at a time in this instance")
    gateway_instance: str | None = Field(None, description="name of this instance; absent: host and random letters")
    heartbeat_seconds: float = Field(10.0, gt=0, le=300)
    job_seconds: int = Field(600, ge=10, le=86_400, description="time limit of one job")
    script_seconds: int = Field(300, ge=1, le=86_400, description="time limit of one post-rotation script")
    saas_plugins_dir: Path | None = Field(
        None, description="folder of SaaS plugins of your own; only root and the gateway's user may write there"
    )
    saas_pip: bool = Field(default=False, description="install by pip what a SaaS plugin of that folder requires")
    work_dir: Path | None = Field(None, description="where scripts get their private folders; absent: the temp folder")
    log_json: bool = Field(default=True)
