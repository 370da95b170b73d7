#!/bin/bash
# Builds pyslurm for the Python and the libslurm of a cluster's root file system, and packs it as a tar to be laid over it.
# Compilers and headers go into an overlay that is thrown away. Runs as pid 1 of its own pid and mount namespaces.
# In the environment: ROOTFS, WORK (an empty directory), TARGET (the tar to write), VERSION (of pyslurm), COMPAT (a
# header), JOBS, APT_CONF (a file with the machine's apt options), PIP_CONF (a file with pip's configuration), BINDS
# (files that all of these name, one a line), CA_BUNDLE (may be empty), BUILD_LOG. Says its stages on stdout.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
M=$WORK/merged
stage() { echo "@stage $*"; }
inside() { chroot "$M" "$@"; }

mount --make-rprivate /
mount -t proc proc /proc
mkdir "$WORK/up" "$WORK/temporary" "$M"
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$WORK/up,workdir=$WORK/temporary" "$M"

stage "package lists for pyslurm"
cp "$APT_CONF" "$M/etc/apt/apt.conf.d/00machine"
cp "$PIP_CONF" "$M/etc/pip.conf"
cp /etc/resolv.conf "$M/etc/resolv.conf"
mount -t proc proc "$M/proc"
mount --bind /dev "$M/dev"
mount -t tmpfs tmpfs "$M/run"
mount -t tmpfs tmpfs "$M/tmp"
if [ -n "$CA_BUNDLE" ]; then
    cp "$CA_BUNDLE" "$M/etc/ssl/certs/ca-certificates.crt"
fi
while read -r path; do
    [ -n "$path" ] || continue
    mkdir -p "$M${path%/*}"
    if [ -d "$path" ]; then mkdir -p "$M$path"; else : >> "$M$path"; fi
    mount --bind "$path" "$M$path"
done <<< "$BINDS"
inside apt-get update -qq >> "$BUILD_LOG" 2>&1

stage "compiler for pyslurm"
inside apt-get install -y -qq --no-install-recommends -o APT::Status-Fd=1 \
    gcc libc6-dev python3-dev python3-pip python3-setuptools cython3 libslurm-dev 2>&1 | tee -a "$BUILD_LOG"

stage "pyslurm"
cp "$COMPAT" "$M/tmp/compat.h"
mkdir "$M/tmp/source"
inside python3 -m pip download -q --no-deps --no-build-isolation --no-binary :all: --no-cache-dir -d /tmp \
    "pyslurm==$VERSION" >> "$BUILD_LOG" 2>&1
tar -x -C "$M/tmp/source" --strip-components=1 -f "$M/tmp/pyslurm-$VERSION.tar.gz"
sed -i 's/if Version(self.version) != Version(SLURM_VERSION)/if False/' "$M/tmp/source/setup.py"   # the header bridges it
# shellcheck disable=SC2016
inside env CFLAGS="-O0 -g0 -w -include /tmp/compat.h" PYSLURM_BUILD_JOBS="$JOBS" JOBS="$JOBS" bash -ec '
    SLURM_LIB_DIR=$(dirname "$(dirname "$(find /usr/lib -name libslurmfull.so)")")
    export SLURM_LIB_DIR
    cd /tmp/source
    python3 setup.py build_py build_ext -j "$JOBS"' >> "$BUILD_LOG" 2>&1

stage "trying pyslurm"
packages=$(inside python3 -c 'import sys; print("/usr/local/lib/python%d.%d/dist-packages" % sys.version_info[:2])')
L=$WORK/layer
mkdir -p "$L$packages"
cp -r "$M"/tmp/source/build/lib.*/pyslurm "$L$packages/"
find "$L" -type f ! -name '*.so' ! -name '*.py' -delete
chmod -R u=rwX,go=rX "$L"
# What was built may not need what is thrown away, or another libslurm or Python than the hosts have.
mkdir "$WORK/bare" "$WORK/bare-up" "$WORK/bare-temporary"
mount -t overlay overlay -o "lowerdir=$L:$ROOTFS,upperdir=$WORK/bare-up,workdir=$WORK/bare-temporary" "$WORK/bare"
chroot "$WORK/bare" env PYSLURM_DISABLE_AUTO_INIT=1 python3 -c 'import pyslurm' >> "$BUILD_LOG" 2>&1
tar -c -C "$L" --owner=0 --group=0 -f "$TARGET" .
