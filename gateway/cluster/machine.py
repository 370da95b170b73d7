"""What this machine knows about its way to packages: apt's mirror and options, pip's configuration, CA certificates.

The parsing is pure; `Machine.look` reads the real files. Nothing of it is guessed and no server is named here.
"""

import configparser
import io
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

_DEBIAN_SUITES = frozenset(
    "sid unstable testing stable oldstable bullseye bookworm trixie forky duke".split()  # noqa: SIM905 - reads better
)
_APT_OPTIONS = re.compile(
    r'Acquire::(Check-|http|https|Proxy|Retries|ForceIPv|AllowInsecure|gpgv)[^ ]* "', re.IGNORECASE
)
_APT_FILE = re.compile(r'^Acquire::https::\S*(?:CaInfo|CaPath|SslCert|SslKey)\S* "(?P<path>/[^"]*)";$', re.MULTILINE)
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
# Where pip puts things on this machine is not a way to packages.
_PIP_LOCAL = frozenset(
    {"config-file", "cache-dir", "target", "prefix", "root", "user", "log", "require-virtualenv", "src", "python"}
)
_NEVER_BOUND = re.compile(r"/(bin|boot|dev|etc|home|lib|lib64|media|mnt|opt|proc|root|run|sbin|sys|tmp|usr|var)?")


@dataclass(frozen=True)
class AptSource:
    """One entry of apt's sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[AptSource]:
    """The classic format: `deb [options] URI SUITE COMPONENT...`, one a line."""
    sources = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            sources.append(AptSource(match[1], (match[2],), tuple(match[3].split())))
    return sources


def parse_deb822(text: str) -> list[AptSource]:
    """The newer format: stanzas of `Field: value`, several types, URIs and suites in each."""
    sources = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        suites = tuple(fields.get("suites", "").split())
        components = tuple(fields.get("components", "").split())
        sources += [AptSource(uri, suites, components) for uri in fields.get("uris", "").split()]
    return sources


def choose_mirror(sources: Iterable[AptSource]) -> str:
    """The URI of the machine's Debian mirror, or "" where it has none (a machine of another distribution)."""
    found = [
        source.uri.rstrip("/")
        for source in sources
        if "main" in source.components
        and _DEBIAN_SUITES.intersection(source.suites)
        and source.uri.split(":", 1)[0] in {"http", "https", "file", "ftp"}
    ]
    # Others publish for Debian's suites too; Debian's own archive is a folder called debian.
    return next((uri for uri in found if uri.endswith("/debian")), found[0] if found else "")


def keep_apt_options(dump: str) -> str:
    """Of `apt-config dump`, the lines that say how to reach and believe a mirror."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_OPTIONS.match(line))


def apt_proxy(options: str, scheme: str) -> str:
    match = re.search(rf'^Acquire::{scheme}::Proxy "([^"]+)";$', options, re.MULTILINE | re.IGNORECASE)
    return match[1] if match and match[1] != "DIRECT" else ""


def merge_pip(texts: Iterable[str]) -> str:
    """Pip's configuration files, the later ones winning, as one; without what is about this machine's disk."""
    merged = configparser.RawConfigParser()
    for text in texts:
        merged.read_string(text)
    for section in merged.sections():
        for key in list(merged[section]):
            if key.replace("_", "-") in _PIP_LOCAL:
                merged.remove_option(section, key)
    out = io.StringIO()
    merged.write(out)
    return out.getvalue()


def pip_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PIP_") and name[4:].lower().replace("_", "-") not in _PIP_LOCAL
    }


def local_paths(values: Iterable[str]) -> list[str]:
    """The directories and files named in pip's values: `/srv/wheels`, `file:///srv/pypi/simple`.

    The pages of an index `X/simple` link to files beside it (`X/files`), so its parent is meant.
    """
    paths = []
    for word in (word for value in values for word in value.split()):
        path = unquote(urlsplit(word).path) if word.startswith("file:") else word
        if not path.startswith("/"):
            continue
        path = os.path.normpath(path)
        if word.startswith("file:") and path.endswith("/simple"):
            path = os.path.dirname(path)  # noqa: PTH120 - text, not a file
        if not _NEVER_BOUND.fullmatch(path) and path not in paths:
            paths.append(path)
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


@dataclass(frozen=True)
class Machine:
    """How this machine reaches packages."""

    mirror: str
    """Its Debian mirror; "" leaves the choice to debootstrap."""

    apt_options: str
    """Lines of an apt.conf."""

    apt_paths: tuple[str, ...]
    """Paths of this machine that the mirror and the apt options name."""

    ca_bundle: str
    """Path of the CA certificates it trusts, or ""."""

    pip_conf: str
    environment: Mapping[str, str]
    """PIP_*, proxies and certificates, as the image builds need them."""

    binds: tuple[str, ...]
    """Paths of this machine that all of the above name."""

    resolv_conf: str

    @classmethod
    def look(cls, mirror: str = "") -> "Machine":
        """Read it now; `mirror` is the Debian mirror to use instead of the machine's own."""
        sources: list[AptSource] = []
        for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
            if path.suffix == ".sources":
                sources += parse_deb822(_read(path))
            elif path.suffix == ".list":
                sources += parse_one_line(_read(path))
        try:
            dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            dump = ""  # not a machine with apt: debootstrap's defaults
        apt_options = keep_apt_options(dump)

        texts = [_read(path) for path in _pip_files(os.environ)]
        pip_conf = merge_pip(texts)
        environment = pip_environment(os.environ)
        for name in _CERTIFICATE_VARIABLES:
            if name in os.environ:
                environment[name] = os.environ[name]
        for name in _PROXY_VARIABLES:
            for variable in (name, name.upper()):
                if variable in os.environ:
                    environment[variable] = os.environ[variable]
        for scheme in ("http", "https"):
            if proxy := apt_proxy(apt_options, scheme):
                environment.setdefault(f"{scheme}_proxy", proxy)
        values = [value for section in _sections(pip_conf) for value in section.values()]
        mirror = mirror or choose_mirror(sources)
        apt_paths = local_paths([*_APT_FILE.findall(apt_options), *([mirror] if mirror.startswith("file:") else [])])
        named = local_paths([*values, *environment.values(), *apt_paths])
        return cls(
            mirror=mirror,
            apt_paths=tuple(path for path in apt_paths if Path(path).exists()),
            apt_options=apt_options,
            ca_bundle=next((path for path in _CA_BUNDLES if Path(path).exists()), ""),
            pip_conf=pip_conf,
            environment=environment,
            # The certificates below /etc/ssl/certs are copied, all of them.
            binds=tuple(
                path
                for path in named
                if Path(path).exists() and path != "/etc/ssl/certs" and not path.startswith("/etc/ssl/certs/")
            ),
            resolv_conf=_read(Path("/etc/resolv.conf")),
        )


def _pip_files(environment: Mapping[str, str]) -> list[Path]:
    """The files that pip reads, in its order: the later wins."""
    home = Path(environment.get("HOME", "/root"))
    files = [
        Path(folder) / "pip/pip.conf" for folder in reversed(environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"))
    ]
    files += [Path("/etc/pip.conf"), home / ".pip/pip.conf"]
    files.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    if "PIP_CONFIG_FILE" in environment:
        files.append(Path(environment["PIP_CONFIG_FILE"]))
    return files


def _sections(text: str) -> list[configparser.SectionProxy]:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return [parser[name] for name in parser.sections()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""
