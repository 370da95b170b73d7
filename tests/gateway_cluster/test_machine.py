"""What is read of the machine's apt and pip configuration."""

import pytest

from gateway.cluster import machine
from gateway.cluster.machine import AptSource

DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: sid
Components: main

Types: deb
URIs: http://a.example/x
 http://b.example/x
Suites: stable
Components: contrib
"""


def test_deb822() -> None:
    found = machine.parse_deb822(DEB822)
    assert found == [
        AptSource("http://mirror.example/debian/", ("bookworm", "bookworm-updates"), ("main",)),
        AptSource("http://mirror.example/debian-security/", ("bookworm-security",), ("main",)),
        AptSource("http://a.example/x", ("stable",), ("contrib",)),
        AptSource("http://b.example/x", ("stable",), ("contrib",)),
    ]
    assert machine.choose_mirror(found) == "http://mirror.example/debian"


def test_one_line() -> None:
    found = machine.parse_one_line(
        "# deb http://no.example/debian sid main\n"
        "deb [arch=amd64 signed-by=/k.gpg] https://m.example/debian trixie main contrib # ours\n"
        "deb-src https://m.example/debian trixie main\n"
        "deb file:/srv/mirror ./\n"
    )
    assert found == [
        AptSource("https://m.example/debian", ("trixie",), ("main", "contrib")),
        AptSource("file:/srv/mirror", ("./",), ()),
    ]


@pytest.mark.parametrize(
    ("uris", "chosen"),
    [
        (["http://vendor.example/apt", "http://m.example/debian"], "http://m.example/debian"),
        (["cdrom://x/debian", "http://m.example/pub"], "http://m.example/pub"),
        (["mirror+file:/etc/list"], ""),
        ([], ""),
    ],
)
def test_debians_own_archive_is_chosen_among_others(uris: list[str], chosen: str) -> None:
    assert machine.choose_mirror([AptSource(uri, ("bookworm",), ("main",)) for uri in uris]) == chosen


def test_a_machine_of_another_distribution_has_no_debian_mirror() -> None:
    assert machine.choose_mirror([AptSource("http://m.example/ubuntu", ("noble",), ("main",))]) == ""


def test_apt_options_that_say_how_to_reach_a_mirror_are_kept() -> None:
    dump = (
        'Acquire "";\nAcquire::cdrom "";\nAcquire::Check-Valid-Until "false";\nAcquire::http::Proxy "http://p:3128";\n'
        'Acquire::https::CaInfo "/opt/ca.pem";\nAcquire::Languages:: "none";\nAPT::Architecture "amd64";\n'
    )
    kept = machine.keep_apt_options(dump)
    assert kept == (
        'Acquire::Check-Valid-Until "false";\nAcquire::http::Proxy "http://p:3128";\n'
        'Acquire::https::CaInfo "/opt/ca.pem";\n'
    )
    assert machine.apt_proxy(kept, "http") == "http://p:3128"
    assert machine.apt_proxy(kept, "https") == ""
    assert machine.apt_proxy('Acquire::http::Proxy "DIRECT";', "http") == ""


def test_pip_configuration_is_merged_in_pips_order_without_what_is_about_the_disk() -> None:
    merged = machine.merge_pip(
        ["[global]\nindex-url = https://a\ncert = /a.pem\n", "[global]\nindex-url = https://b\ncache-dir = /c\n"]
    )
    assert merged.split() == ["[global]", "index-url", "=", "https://b", "cert", "=", "/a.pem"]
    assert machine.merge_pip([]) == ""


def test_pip_environment() -> None:
    environment = {"PIP_FIND_LINKS": "/w", "PIP_CACHE_DIR": "/c", "PIP_CONFIG_FILE": "/p", "HOME": "/root"}
    assert machine.pip_environment(environment) == {"PIP_FIND_LINKS": "/w"}


def test_local_paths_are_found_and_an_index_means_its_parent() -> None:
    values = ["/srv/wheels", "file:///srv/pypi/simple file:///srv/wheels/more https://x/simple", "60", "/usr", "/opt"]
    assert machine.local_paths(values) == ["/srv/wheels", "/srv/pypi"]
    assert machine.local_paths(["file:///srv/with%20space/simple"]) == ["/srv/with space"]
