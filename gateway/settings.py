"""Settings: one `sluice.toml`, every key also as `SLUICE_...` in the environment; an unknown key is an error.

The file is the first of $SLUICE_CONFIG, ./sluice.toml, ~/.config/sluice/sluice.toml, /etc/sluice/sluice.toml, and
the one that `sluice up` wrote into the state directory.
With no file and no cluster configured, a machine with `sbatch` on its PATH is used in single-user mode.
"""

import difflib
import os
import pwd
import shutil
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway.errors import ClusterNotFound, SettingsInvalid
from gateway.model.connection_limits import ConnectionLimits
from gateway.model.task_settings import TaskSettings

ENV_PREFIX = "SLUICE_"
ENV_SEPARATOR = "__"
_FOLDERS = {("recipes", "folders"), ("policy", "folders")}
_NOT_SETTINGS = {"SLUICE_CONFIG", "SLUICE_URL", "SLUICE_TOKEN", "SLUICE_CA_FILE"}


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/sluice")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sluice"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VolumeClass(Section):
    """A kind of place for volumes. `root`: nothing outside of it is mounted as a volume of this class."""

    root: str = Field(
        description="Folder that the class's volumes lie below; a relative path starts at the user's home. "
        "`{user}` is the Unix user, `{project}` the project.",
        pattern=r"^[^\x00-\x1f]+$",
    )
    of: Literal["user", "project"] = Field("user", description="Whether its volumes are people's or projects'.")
    writable: bool = Field(default=True, description="Whether sessions may write there at all.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if ".." in self.root.split("/"):
            raise ValueError("root: a path without '..'")
        if self.of == "project" and "{project}" not in self.root:
            raise ValueError("root: without {project} all projects would share it")
        if self.of == "user" and self.root.startswith("/") and "{user}" not in self.root:
            raise ValueError("root: without {user} all people would share it; relative paths start at the home")
        return self


class ClusterSettings(Section):
    """One Slurm installation: how it is asked, how its files are reached, who jobs run as."""

    backend: Literal["rest", "cli", "pyslurm"] = Field(
        "cli", description="How Slurm is asked: slurmrestd, its commands, or libslurm on this machine."
    )
    rest_url: str | None = Field(None, description="Base address of slurmrestd, e.g. http://ctl:6820.")
    rest_ca_file: Path | None = Field(
        None, description="CA certificates (PEM) for an https rest_url, in place of the system's."
    )
    jwt_key_file: Path | None = Field(None, description="Slurm's HS256 key, with which the gateway signs tokens.")
    pyslurm_python: Path | None = Field(
        None, description="Python that has pyslurm, for that back end; unset: the one that runs the gateway."
    )
    files: Literal["sftp", "mounted"] = Field(
        "mounted",
        description="How the cluster's files are reached: SFTP to the login node, or the same path here.",
    )
    ssh_host: str | None = Field(None, description="Login node; unset: commands run on this machine.")
    ssh_port: int = Field(22, description="Port of the login node's sshd.")
    known_hosts_file: Path | None = Field(None, description="Host keys of login and build host; always checked.")
    user_ca_key_file: Path | None = Field(
        None, description="Private key of the user CA that sshd trusts; signs certificates of a few minutes."
    )
    ssh_key_file: Path | None = Field(
        None, description="Private key for the login node, in place of a user CA; without a pass phrase."
    )
    ssh_agent: bool = Field(
        default=False, description="Log in with the keys of the agent at SSH_AUTH_SOCK, in place of a user CA."
    )
    path: Literal["auto", "direct", "ssh"] = Field(
        "auto",
        description="How the data plane reaches the nodes: directly, through the login node (ssh), or directly and, "
        "where that leads nowhere, through the login node (auto).",
    )
    build_host: str | None = Field(None, description="Where images are built; unset: on the login node.")
    build_port: int = Field(22, description="Port of the build host's sshd.")
    image_dir: str = Field("~/.sluice/images", description="Folder of the images on the cluster.")
    session_root: str = Field(
        ".sluice/sessions",
        description="Folder of session directories; a relative path starts at the user's home.",
    )
    unix_user: str | None = Field(None, description="Unix user that jobs run as; unset: who runs the gateway.")
    operator_user: str | None = Field(
        None, description="Unix user with Slurm's AdminLevel Operator, as whom `sluice user` keeps associations."
    )
    default_partition: str | None = Field(None, description="Partition where a recipe names none.")
    account: str | None = Field(None, description="Slurm account of the jobs; unset: the user's default.")
    qos: str | None = Field(None, description="QOS of the jobs; unset: the default.")
    comment_field: Literal["comment", "extra"] = Field(
        "comment", description="Job field in which the agent announces itself."
    )
    volumes: Mapping[str, VolumeClass] = Field(
        {"home": VolumeClass(root="~")}, description="Classes of volumes, by name, such as home, project and scratch."
    )

    @property
    def user(self) -> str:
        """The Unix user that jobs run as."""
        return self.unix_user or pwd.getpwuid(os.getuid()).pw_name


class RecipesSettings(Section):
    folders: tuple[Path, ...] = Field((), description="Site folders of recipes; they override shipped ones by name.")


class PolicySettings(Section):
    folders: tuple[Path, ...] = Field(
        (), description="Site folders of policies (`.cedar`) and limits (`.toml`), beside the shipped policies."
    )
    timezone: str = Field("UTC", description="Time zone of the hours and weekdays that policies see.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone that is known here, such as Europe/Berlin") from error
        return value


class ServeSettings(Section):
    host: str = Field("127.0.0.1", description="Address that the services listen on.")
    all_port: int = Field(8000, description="Port of `sluice serve all`.")
    server_port: int = Field(8001, description="Port of the server.")
    client_port: int = Field(8002, description="Port of the client service.")
    monitoring_port: int = Field(8003, description="Port of the monitoring service.")
    logs_port: int = Field(8004, description="Port of the logs service.")
    tls_certificate_file: Path | None = Field(
        None,
        description="Certificate and the chain behind it (PEM): all ports then speak HTTPS. Read anew when changed.",
    )
    tls_key_file: Path | None = Field(None, description="Its private key (PEM, no pass phrase, nobody else's to read).")
    hsts_seconds: int = Field(
        31536000, ge=0, description="How long browsers shall come by HTTPS only, told them there; 0: not told."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses and networks of reverse proxies: what they say of who asks, and how, is believed."
    )
    forwarded_header: Literal["x-forwarded", "forwarded"] = Field(
        "x-forwarded", description="How they say it: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239)."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages may call the API and /v1 with a token, e.g. https://portal.hpc.edu."
    )
    requests_per_minute: int = Field(
        0, ge=0, description="Requests a minute that one caller may send to the API, per server; 0: no limit."
    )
    failed_sign_ins_per_minute: int = Field(
        60,
        ge=0,
        description="Failures a minute to say who one is (tokens, links, cookies), from one address; 0: no limit.",
    )
    connection: ConnectionLimits = Field(ConnectionLimits(), description="What one connection may take, and how long.")
    log_format: Literal["json", "text"] = Field("json", description="How services write their logs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            try:
                ip_network(word, strict=False)
            except ValueError as error:
                raise ValueError(f"{word!r} is no address and no network, such as 10.0.0.5 or 10.0.0.0/24") from error
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            parts = urlsplit(word)
            if parts.scheme not in {"http", "https"} or word != f"{parts.scheme}://{parts.netloc}" or "*" in word:
                raise ValueError(f"{word!r} is no origin, such as https://portal.hpc.edu")
        return value


class RequestLimits(Section):
    """How many requests; 0: no limit."""

    concurrent_requests: int = Field(0, ge=0, description="Requests under way; 0: no limit.")
    requests_per_minute: int = Field(0, ge=0, description="Requests a minute; 0: no limit.")


class ProxySettings(Section):
    """The data plane: `/v1` and `/s`."""

    session_in_flight: int = Field(
        2048,
        ge=1,
        description="Requests that one endpoint answers at once, unless its recipe says; more wait in line.",
    )
    session_queue: int = Field(
        1024, ge=0, description="Requests that may wait for a busy session, unless its recipe says; more are refused."
    )
    queue_seconds: float = Field(30.0, gt=0, description="Longest time that a request waits for a busy session.")
    concurrent_requests: int = Field(0, ge=0, description="Requests that one caller may have under way; 0: no limit.")
    requests_per_minute: int = Field(0, ge=0, description="Requests a minute that one caller may send; 0: no limit.")
    token: RequestLimits = Field(RequestLimits(), description="What one token may have.")
    project: RequestLimits = Field(RequestLimits(), description="What the sessions of one project may be asked.")
    projects: Mapping[str, RequestLimits] = Field(
        {}, description="The same for projects that have limits of their own."
    )
    first_byte_seconds: float = Field(
        1800.0, ge=0, description="Longest time until a service begins to answer a request; 0: any time."
    )
    wake_seconds: float = Field(
        600.0, gt=0, description="Longest time that a request waits for a session that sleeps to start."
    )
    progress_seconds: float = Field(
        10.0, gt=0, description="How often a caller who waits for a stream is told so, by a comment in it."
    )
    session_domain: str | None = Field(
        None, description="Sessions are also found at `<session>.<this>`, each an origin of its own."
    )
    cookie_hours: float = Field(
        12, gt=0, le=168, description="How long a browser that opened a session may use it before it is opened again."
    )
    aliases: Mapping[str, Mapping[str, str]] = Field(
        {}, description="Other names of models, by project: an alias, and the model or session that it means."
    )


class ReconcileSettings(Section):
    poll_seconds: float = Field(1.0, gt=0, description="Longest time between two looks at Slurm while jobs are live.")
    busy_poll_seconds: float = Field(0.5, gt=0, description="The same for a while after a submit or a stop.")
    lease_seconds: float = Field(
        10.0,
        ge=1,
        description="How long after its last sign of life a server keeps a cluster from the others (several servers).",
    )
    sweep_seconds: float = Field(
        300.0, gt=0, description="Time between two sweeps for jobs that no session follows; two must see one to end it."
    )
    submit_concurrency: int = Field(16, ge=1, le=256, description="Submissions under way at once, per cluster.")


class OidcSettings(Section):
    """Sign-in by an identity provider, found by discovery. Off while `issuer` is unset."""

    issuer: str | None = Field(
        None, description="The provider's issuer; /.well-known/openid-configuration is below it."
    )
    client_id: str = Field("sluice", description="Client id of the gateway, for the browser.")
    client_secret_file: Path | None = Field(None, description="File with its secret; unset: a public client.")
    cli_client_id: str | None = Field(None, description="Public client of `sluice login`; unset: client_id.")
    audience: str | None = Field(
        None, description="Audience that access tokens must have, asked for as `resource`; unset: client_id."
    )
    public_url: str | None = Field(None, description="Address of the gateway as browsers see it, e.g. https://hpc.edu.")
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="What is asked for at a sign-in.")
    algorithms: tuple[str, ...] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"), description="Signatures that are accepted; never `none` or HS*."
    )
    skew_seconds: float = Field(60, ge=0, le=300, description="How far clocks may be apart.")
    keys_seconds: float = Field(30, ge=1, description="Least time between two looks for the provider's keys.")
    session_hours: float = Field(12, gt=0, description="How long a browser stays signed in.")
    unknown: Literal["ask", "admit"] = Field(
        "ask", description="Who signs in for the first time waits for an operator (ask), or is let in (admit)."
    )
    name_claim: str = Field("preferred_username", description="Claim from which a new user's name is made.")
    unix_user: Literal["none", "claim", "table", "getent"] = Field(
        "none",
        description="Unix user of a new user: none (an operator says), a claim, the table unix_users, "
        "or the cluster's user of the name in unix_claim, if there is one.",
    )
    unix_claim: str = Field("preferred_username", description="Claim that names the Unix user.")
    unix_users: Mapping[str, str] = Field({}, description="Table from subject to Unix user.")
    groups_claim: str = Field("groups", description="Claim with the groups.")
    groups: Mapping[str, str] = Field({}, description="From group to place in a project, `project:role`.")
    admin_groups: tuple[str, ...] = Field((), description="Groups whose members are administrators.")
    operator_groups: tuple[str, ...] = Field((), description="Groups whose members are operators.")

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [word for word in value if word == "none" or word.startswith("HS")]:
            raise ValueError(f"{', '.join(bad)}: a signature that anybody could make is none")
        return value

    @property
    def wanted_audience(self) -> str:
        return self.audience or self.client_id


class MungeSettings(Section):
    """People on other hosts of a cluster, known by MUNGE. Off while `hosts` is empty."""

    hosts: tuple[str, ...] = Field(
        (), description="This gateway as people's SLUICE_URL names it, host or host:port: credentials are for these."
    )
    cluster: str | None = Field(None, description="Cluster whose MUNGE key it is; unset: the default one.")
    unmunge: tuple[str, ...] = Field(("unmunge",), min_length=1, description="Command that decodes credentials.")
    uid: int | None = Field(None, ge=0, description="Uid that it runs under; unset: that of the gateway.")


class IdentitySettings(Section):
    uid_floor: int = Field(1000, ge=1, description="Unix users with a smaller uid are the system's: nothing runs so.")
    denied_unix_users: tuple[str, ...] = Field(
        ("root", "daemon", "bin", "sys", "nobody", "slurm", "munge", "postgres", "mysql", "www-data", "sshd"),
        description="Unix users that nothing runs as, whatever their uid.",
    )
    socket: Path | None = Field(
        None, description="Unix socket on which callers are known by their Unix user; unset: none."
    )
    socket_unknown: Literal["ask", "admit"] = Field(
        "ask", description="Who comes by the socket for the first time waits for an operator, or is let in."
    )
    socket_cluster: str | None = Field(
        None, description="Cluster whose Unix users are those of the socket's machine; unset: the default one."
    )
    munge: MungeSettings = Field(MungeSettings(), description="Known by MUNGE.")
    oidc: OidcSettings = Field(OidcSettings(), description="Sign-in by an identity provider.")


class SecretsSettings(Section):
    key_file: Path | None = Field(
        None,
        description="File with the keys that secrets are sealed with, the current one first, the same for all servers; "
        "unset: secrets.keys in state_dir, made at first start. SLUICE_SECRET_KEYS takes its place.",
    )


class Settings(Section):
    """Everything that can be set."""

    state_dir: Path = Field(default_factory=_default_state_dir, description="Database, token and keys of the gateway.")
    database_url: str | None = Field(None, description="SQLAlchemy address; unset: SQLite in state_dir.")
    database_password_file: Path | None = Field(
        None, description="File with the password of the user that database_url names; read at start."
    )
    default_cluster: str | None = Field(None, description="Cluster where a caller names none; unset: the only one.")
    clusters: Mapping[str, ClusterSettings] = Field({}, description="The Slurm clusters, by name.")
    recipes: RecipesSettings = Field(RecipesSettings(), description="The catalogue.")
    policy: PolicySettings = Field(PolicySettings(), description="Who may do what, as the site says it.")
    serve: ServeSettings = Field(ServeSettings(), description="Addresses, ports and logs of the services.")
    proxy: ProxySettings = Field(ProxySettings(), description="The data plane.")
    tasks: TaskSettings = Field(TaskSettings(), description="Files, and batches of requests.")
    reconcile: ReconcileSettings = Field(ReconcileSettings(), description="The reconcile loop.")
    identity: IdentitySettings = Field(IdentitySettings(), description="Who may come in, and as whom.")
    secrets: SecretsSettings = Field(SecretsSettings(), description="How secrets are kept.")
    source: Path | None = Field(None, exclude=True, description="The file that these settings were read from.")

    @property
    def database(self) -> str:
        """The address of the database, with its password. SettingsInvalid if the password's file is of no use."""
        if self.database_password_file is None:
            return self.database_url or f"sqlite:///{self.state_dir / 'sluice.db'}"
        scheme, slashes, rest = (self.database_url or "").partition("://")
        user, at, place = rest.partition("@")
        if not at or not user or ":" in user:
            raise SettingsInvalid(
                "database_password_file: database_url must name a user, and no password",
                hint="For example postgresql+psycopg://sluice@db.example.org/sluice.",
            )
        try:
            password = self.database_password_file.read_text().rstrip("\r\n")
        except OSError as error:
            raise SettingsInvalid(f"database_password_file: {self.database_password_file}: {error.strerror}") from error
        return f"{scheme}{slashes}{user}:{quote(password, safe='')}@{place}"

    def cluster(self, name: str | None = None) -> tuple[str, ClusterSettings]:
        """The named cluster, or the default one. ClusterNotFound says which there are."""
        wanted = name or self.default_cluster or (next(iter(self.clusters)) if len(self.clusters) == 1 else None)
        if wanted is not None and wanted in self.clusters:
            return wanted, self.clusters[wanted]
        known = ", ".join(sorted(self.clusters)) or "none"
        if wanted is None:
            raise ClusterNotFound(
                f"no cluster was named and there is no single default (configured: {known})",
                hint="`sluice cluster up` makes one here; or set default_cluster in sluice.toml.",
            )
        raise ClusterNotFound(
            f"there is no cluster {wanted!r} (configured: {known})", hint=nearest(wanted, self.clusters)
        )


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. SettingsInvalid names the file, the key and the nearest known one."""
    environ = os.environ if environ is None else environ
    source = path or find(environ)
    values: dict[str, Any] = {}
    if source is not None:
        try:
            values = tomllib.loads(source.read_text())
        except tomllib.TOMLDecodeError as error:
            raise SettingsInvalid(f"{source}: {error}", hint="The file must be TOML.") from error
        except OSError as error:
            raise SettingsInvalid(
                f"{source}: {error.strerror}", hint="Is the path right, and may you read it?"
            ) from error
    _overlay(values, environ)
    if not values.get("clusters") and shutil.which("sbatch", path=environ.get("PATH")):
        values["clusters"] = {"local": {}}
    try:
        return Settings.model_validate({**values, "source": source})
    except ValidationError as error:
        raise _explained(error, source) from error


def find(environ: Mapping[str, str]) -> Path | None:
    """The settings file in force, if there is one."""
    if named := environ.get("SLUICE_CONFIG"):
        return Path(named)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    places = (Path("sluice.toml"), home / "sluice/sluice.toml", Path("/etc/sluice/sluice.toml"), generated(environ))
    return next((place for place in places if place.is_file()), None)


def generated(environ: Mapping[str, str]) -> Path:
    """The settings file that `sluice up` writes: in $SLUICE_STATE_DIR or the default state directory."""
    return Path(environ.get("SLUICE_STATE_DIR") or _default_state_dir()) / "sluice.toml"


def nearest(word: str, known: Mapping[str, object] | set[str]) -> str:
    """A hint that names the nearest known word, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."


def _overlay(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put `SLUICE_SERVE__HOST=...` over `serve.host`; lists and numbers in JSON form are left to pydantic."""
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in _NOT_SETTINGS or name.startswith("SLUICE_CLUSTER_"):
            continue
        *sections, key = name.removeprefix(ENV_PREFIX).lower().split(ENV_SEPARATOR)
        if not sections and key not in Settings.model_fields:
            continue  # another program's variable, or one of a job's
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value.split(os.pathsep) if (*sections, key) in _FOLDERS else value


def _explained(error: ValidationError, source: Path | None) -> SettingsInvalid:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    where = f"{source}: {place}" if source else place
    if first["type"] != "extra_forbidden":
        return SettingsInvalid(f"{where}: {first['msg']}", hint=_got(first["input"]))
    return SettingsInvalid(f"{where}: unknown setting", hint=nearest(str(first["loc"][-1]), _known(first["loc"][:-1])))


def _got(value: Any) -> str:
    """What stood there, unless it may hold a password: an address with one, or a whole section."""
    plain = isinstance(value, str | int | float | bool) and not ("@" in str(value) or "://" in str(value))
    return f"Got {value!r}." if plain else ""


def _known(place: tuple[int | str, ...]) -> set[str]:
    model: type[BaseModel] = Settings
    for part in place:
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        elif str(part) == "clusters":
            model = ClusterSettings
    return set(model.model_fields)
