#!/bin/sh
# Lends the build host's way to Debian, PyPI and npm to an image while it is built, and takes it back: configuration of
# pip and npm, proxies, CA certificates, apt options. Nothing of it stays in the image.
#
# `%setup` (on the build host):   sh files/build-host.sh "$APPTAINER_ROOTFS"
# `%post`  (in the image):        . /.sluice-build/enter   first, and   sluice_leave   last
#
# Build with `--bind /:/mnt:ro` where pip needs files of the build host (SLUICE_BUILD_BINDS, comma-separated; the pip
# configuration files are always among them): they appear at their own paths, as links into /mnt, until the end.
set -eu
into=$1/.sluice-build
mkdir -p "$into"
chmod 700 "$into"

quoted() { printf "%s" "$1" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/"; }
{
    env | sed -n 's/^\(PIP_[A-Z_]*\|[Nn][Pp][Mm]_[Cc][Oo][Nn][Ff][Ii][Gg]_[A-Za-z_]*\|[a-zA-Z]*_proxy\|[A-Z]*_PROXY\)=.*/\1/p' | while read -r name; do
        echo "export $name=$(quoted "$(printenv "$name")")"
    done
} > "$into/variables"

certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$certificates" ]; then
    cp -L "$certificates" "$into/ca.crt"
    for name in PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS; do
        echo "export $name=/.sluice-build/ca.crt"
    done >> "$into/variables"
fi

{
    echo 'APT::Install-Recommends "false"; Acquire::Languages "none"; Dpkg::Options { "--force-unsafe-io"; };'
    [ ! -r "${SLUICE_APT_CONF:-}" ] || cat "$SLUICE_APT_CONF"
    [ ! -e "$into/ca.crt" ] || echo 'Acquire::https::CaInfo "/.sluice-build/ca.crt";'
} > "$into/apt.conf"

for path in /etc/pip.conf $(echo "${SLUICE_BUILD_BINDS:-}" | tr , ' '); do echo "$path"; done | sort -u > "$into/paths"
for path in "$HOME/.pip/pip.conf" "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "${PIP_CONFIG_FILE:-}"; do
    [ ! -r "$path" ] || { cp -L "$path" "$into/pip.conf"; echo "export PIP_CONFIG_FILE=/.sluice-build/pip.conf"; }
done >> "$into/variables"

for path in /etc/npmrc "$HOME/.npmrc" "${NPM_CONFIG_USERCONFIG:-}"; do
    [ ! -r "$path" ] || { cp -L "$path" "$into/npmrc"; echo "export NPM_CONFIG_USERCONFIG=/.sluice-build/npmrc"; }
done >> "$into/variables"

cat > "$into/enter" <<'ENTER'
set -eu
. /.sluice-build/variables
export APT_CONFIG=/.sluice-build/apt.conf DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
export PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

while read -r path; do                     # a link for each path that the image does not have itself
    [ -e "/mnt$path" ] && [ ! -e "$path" ] && [ ! -L "$path" ] || continue
    mkdir -p "${path%/*}"
    ln -s "/mnt$path" "$path"
    echo "$path" >> /.sluice-build/links
done < /.sluice-build/paths

sluice_leave() {
    { set +x; } 2> /dev/null                 # a line for every package that is thrown away says nothing
    [ ! -e /.sluice-build/links ] || while read -r path; do rm "$path"; done < /.sluice-build/links
    rm -rf /.sluice-build /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* /var/cache/apt/*.bin \
        /var/cache/apt/archives/*.deb /var/cache/debconf/*-old /var/log/*.log /var/log/apt /root/.cache \
        /usr/share/doc/* /usr/share/man/* /usr/share/info/* /usr/share/locale/*
}
ENTER
