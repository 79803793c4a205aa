"""Reads the server's settings: the environment wins over the TOML file, which wins over the defaults here. Main thread.

An unknown name is an error that suggests the nearest known one. Every field is described in docs/settings.md.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from models.errors import nearest
from models.spec import ModelType
from pipelines import fault_points
from server.accounts.quotas import DEFAULT_PLANS, Plan
from server.paths import cache_home, data_home
from server.units import parse_bytes, parse_seconds

PREFIX = "AGENTNAME_"
CONFIG = f"{PREFIX}CONFIG"  # names the TOML file
CLIENT = (f"{PREFIX}URL", f"{PREFIX}API_KEY")  # read by the command line and the Python client, not by the server
FILE_NAME = "agentname.toml"  # in the data directory


class SettingsError(Exception):
    """The settings cannot be used; the message has one line for each fault."""


def _split(value: object) -> object:
    """Read a list from the environment: "a, b" or a JSON array."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


Bytes: TypeAlias = Annotated[int, Field(ge=0), BeforeValidator(parse_bytes)]
Seconds: TypeAlias = Annotated[float, Field(ge=0), BeforeValidator(parse_seconds)]
Names: TypeAlias = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Folders: TypeAlias = Annotated[list[Path], NoDecode, BeforeValidator(_split)]
Count: TypeAlias = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 3001
    data_dir: Path = Field(default_factory=data_home)
    cache_dir: Path = Field(default_factory=cache_home)
    database_url: SecretStr | None = None

    device: str = "auto"
    memory_budget: Bytes | None = None
    memory_reserve: Bytes = 512 * 2**20
    parking_budget: Bytes | None = None
    torch_threads: Count | None = None

    models_dirs: Folders = []
    pull_private_urls: bool = False
    offload: bool = True
    default_image: str | None = None
    default_video: str | None = None
    default_chat: str | None = None
    default_embedding: str | None = None
    system_prompt: str | None = None
    keep_alive: Seconds = 300.0
    min_residency_s: Seconds = 10.0
    chat_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    max_quantum_s: Annotated[float, Field(gt=0)] = 4.0

    plans: dict[str, Plan] = {}
    queue_size: Count = 10_000
    max_queued_per_key: Count | None = None
    body_memory: Bytes = 256 * 2**20
    output_retention_h: Annotated[float, Field(gt=0)] = 24
    job_retention_days: Annotated[float, Field(gt=0)] = 30
    file_retention_h: Annotated[float, Field(gt=0)] = 24
    min_free_disk: Bytes = 256 * 2**20

    allowed_hosts: Names = []
    allowed_origins: Names = []
    trusted_proxies: Names = []
    webhook_networks: Names = []
    fetch_images: bool = False
    image_networks: Names = []
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_grace_s: Seconds = 10.0
    step_timeout_s: Seconds = 300.0

    @field_validator("data_dir", "cache_dir", "models_dirs")
    @classmethod
    def _absolute(cls, value: Path | list[Path]) -> Path | list[Path]:
        if isinstance(value, Path):
            return value.expanduser().absolute()
        return [folder.expanduser().absolute() for folder in value]

    @field_validator("trusted_proxies", "webhook_networks", "image_networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"{network} is not a network like 192.168.1.0/24") from None
        return value

    @field_validator("plans", mode="before")
    @classmethod
    def _over_the_default_plans(cls, value: Any) -> dict[str, Any]:
        """Complete each plan: a default plan keeps the values that are not given, any other plan starts from `free`."""
        if not isinstance(value, Mapping):
            raise ValueError("plans are tables: [plans.free]")
        plans: dict[str, Any] = {name: asdict(plan) for name, plan in DEFAULT_PLANS.items()}
        known = [field.name for field in fields(Plan)]
        for name, given in value.items():
            if isinstance(given, Plan):
                plans[name] = asdict(given)
                continue
            if not isinstance(given, Mapping):
                raise ValueError(f"plans.{name} is a table: [plans.{name}]")
            for key in given:
                if key not in known:
                    raise ValueError(f"plans.{name}.{key} is not known.{nearest(key, known)}")
            limits = {key: None if limit == "unlimited" else limit for key, limit in given.items()}
            if "file_space" in limits:
                limits["file_space"] = parse_bytes(limits["file_space"])
            plans[name] = asdict(DEFAULT_PLANS.get(name, DEFAULT_PLANS["free"])) | limits
        return plans

    @property
    def default_models(self) -> dict[ModelType, str | None]:
        return {
            "image": self.default_image,
            "video": self.default_video,
            "chat": self.default_chat,
            "embedding": self.default_embedding,
        }

    @property
    def store_url(self) -> str:
        """URL of the job store: `database_url`, or the SQLite file in the data directory."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'agentname.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        data_dir = init_settings().get("data_dir") or env_settings().get("data_dir")
        path = config_path(None if data_dir is None else Path(data_dir))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)


def config_path(data_dir: Path | None = None) -> Path:
    """The TOML file to read; it need not exist unless AGENTNAME_CONFIG names it."""
    named = os.environ.get(CONFIG)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{CONFIG}={named}: no such file")
        return Path(named)
    return (data_dir or data_home()).expanduser() / FILE_NAME


def load_settings(**overrides: Any) -> Settings:
    """Read all settings. overrides: options of the command line, which win over the environment; None: not given.

    Raises `SettingsError`.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := list(_unknown_in_environment(os.environ)):
        raise SettingsError("\n".join(unknown))
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error))) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The config file is not TOML: {error}") from None
    except SourceError as error:
        raise SettingsError(f"{error}: {error.__cause__}") from None


def _unknown_in_environment(environ: Mapping[str, str]) -> Iterable[str]:
    if refused := fault_points.check_environment(environ):
        yield refused
    known = {CONFIG, *CLIENT, fault_points.FAULTS, fault_points.TESTING}
    known |= {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(environ):
        name = variable.upper()
        if name.startswith(PREFIX) and name not in known and not name.startswith(f"{PREFIX}PLANS__"):
            yield f"{variable} is not a setting.{nearest(name, known)}"


def _explain(error: ValidationError) -> Iterable[str]:
    """One line for each fault, without the value, which may be a password."""
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            yield f"{name} is not a setting.{nearest(name, Settings.model_fields)}"
        else:
            yield f"{name}: {fault['msg'].removeprefix('Value error, ')}"
