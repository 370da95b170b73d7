#!/bin/bash
# Builds the Debian root file system that every host of a cluster shares.
# Runs as pid 1 of its own pid and mount namespaces: when it or its parent dies, nothing stays mounted or running.
# In the environment: TARGET (an empty directory), RELEASE, MIRROR (may be empty), PACKAGES, USERS (name:uid ...),
# APT_CONF (a file with the machine's apt options), APT_PATHS (files that these and MIRROR name, one a line),
# CA_BUNDLE (may be empty), BUILD_LOG. Says its stages on stdout.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
R=$TARGET
stage() { echo "@stage $*"; }
inside() { chroot "$R" "$@"; }

mount --make-rprivate /
mount -t proc proc /proc

stage "base system"
# Before the first package: no sync after every file, no documentation, no translations.
mkdir -p "$R/etc/dpkg/dpkg.cfg.d" "$R/etc/apt/apt.conf.d"
cat > "$R/etc/dpkg/dpkg.cfg.d/slim" <<'E'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
E
echo 'Acquire::Languages "none"; APT::Install-Recommends "false"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' \
    > "$R/etc/apt/apt.conf.d/99slim"
# The script is named: an older debootstrap does not know every release, and all of them are made the same way.
debootstrap --variant=minbase --include=ca-certificates "$RELEASE" "$R" ${MIRROR:+"$MIRROR" sid} 2>&1 | tee -a "$BUILD_LOG"

stage "package lists"
cp "$APT_CONF" "$R/etc/apt/apt.conf.d/00machine"
cp /etc/resolv.conf "$R/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' > "$R/usr/sbin/policy-rc.d"   # installing a daemon must not start it
chmod 755 "$R/usr/sbin/policy-rc.d"
mount -t proc proc "$R/proc"
mount --bind /dev "$R/dev"
mount -t tmpfs tmpfs "$R/run"
bound=() made=()
while read -r path; do
    [ -n "$path" ] || continue
    mkdir -p "$R${path%/*}"
    if [ ! -e "$R$path" ]; then
        if [ -d "$path" ]; then mkdir "$R$path"; else : > "$R$path"; fi
        made+=("$R$path")
    fi
    mount --bind "$path" "$R$path"
    bound+=("$R$path")
done <<< "$APT_PATHS"
if [ -n "$CA_BUNDLE" ]; then
    cp "$CA_BUNDLE" "$R/run/machine-ca.crt"
    grep -q '^Acquire::https::CaInfo' "$APT_CONF" ||
        echo 'Acquire::https::CaInfo "/run/machine-ca.crt";' >> "$R/etc/apt/apt.conf.d/00machine"
fi
inside apt-get update -qq >> "$BUILD_LOG" 2>&1

stage "packages"
# A release without one of the optional packages (marked by ?) is still good for what it has.
install=()
for p in $PACKAGES; do
    case $p in
        *\?) if inside apt-cache show "${p%\?}" > /dev/null 2>&1; then install+=("${p%\?}"); fi ;;
        *) install+=("$p") ;;
    esac
done
inside apt-get install -y -qq -o APT::Status-Fd=1 "${install[@]}" 2>&1 | tee -a "$BUILD_LOG"
inside apt-get clean
rm -rf "$R"/var/lib/apt/lists/* "$R"/var/cache/debconf/*-old "$R"/var/cache/apt/*.bin

stage "users and database"
for user in $USERS; do
    inside useradd -u "${user#*:}" -U -M -d "/home/${user%:*}" -s /bin/bash "${user%:*}"
    inside usermod -p '*' "${user%:*}"        # no password; a locked account ("!") is refused by sshd
done
inside useradd -r -u 990 -U -M -d /nonexistent -s /usr/sbin/nologin slurmrestd
i=0
: > "$R/etc/subuid"; : > "$R/etc/subgid"
for user in $USERS; do                        # what `apptainer build --fakeroot` maps
    echo "${user%:*}:$((200000 + i * 65536)):65536" | tee -a "$R/etc/subuid" >> "$R/etc/subgid"
    i=$((i + 1))
done
cat > "$R/etc/mysql/mariadb.conf.d/99-sluice.cnf" <<'E'
[mariadbd]
skip-networking
socket=/run/mysqld/mysqld.sock
plugin-load-add=auth_socket
innodb_buffer_pool_size=128M
innodb_log_file_size=16M
innodb_flush_log_at_trx_commit=0
innodb_lock_wait_timeout=900
innodb_snapshot_isolation=OFF
skip-log-bin
performance_schema=0
E
rm -rf "$R/var/lib/mysql"                     # some releases made one already when they were installed
mkdir -p "$R/var/lib/mysql"
inside chown mysql:mysql /var/lib/mysql
inside mariadb-install-db --user=mysql --datadir=/var/lib/mysql --skip-test-db >> "$BUILD_LOG" 2>&1
inside mariadbd --user=mysql --bootstrap --datadir=/var/lib/mysql >> "$BUILD_LOG" 2>&1 <<'E'
FLUSH PRIVILEGES;
CREATE DATABASE slurm_acct_db;
CREATE USER 'slurm'@'localhost' IDENTIFIED VIA unix_socket;
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
E
mkdir -p "$R/var/spool/slurmctld" "$R/var/spool/slurmd" "$R/var/log/slurm"
inside chown slurm:slurm /var/spool/slurmctld /var/log/slurm

stage "cleaning up"
rm -f "$R/etc/apt/apt.conf.d/00machine" "$R/usr/sbin/policy-rc.d" "$R"/etc/ssh/ssh_host_* "$R/etc/munge/munge.key"
: > "$R/etc/resolv.conf"                      # no DNS on the cluster's hosts: unknown names fail at once
for path in "${bound[@]}"; do umount "$path"; done
for path in "${made[@]}"; do rm -d "$path"; done
rm -rf "$R"/var/log/apt "$R"/var/log/*.log "$R"/tmp/*
umount "$R/run" "$R/dev" "$R/proc"
