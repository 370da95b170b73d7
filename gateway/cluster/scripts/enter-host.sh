#!/bin/sh
# Turns fresh mount, UTS, IPC and PID namespaces into a host, and itself into that host's pid 1.
# In the environment: HOST, ROLE, MARK, STATE, LOWER (overlay layers), DEVICES (name:major:minor ...), and, all of
# which may be empty, ADDRESS, IMAGES (a directory), TMP_ON_DISK (yes) and BINDS (paths, one a line).
# Says "entered" on stdout, then waits for a line on stdin: if the command that starts the cluster is killed, that line
# never comes and the half-made host ends by itself.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo entered
mount --make-rprivate /
T=$STATE/run                                  # a tmpfs seen by this host alone holds what it writes
mount -t tmpfs -o size=4G,mode=755 tmpfs "$T"
mkdir "$T/up" "$T/work" "$T/root"
M=$T/root
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$T/up,workdir=$T/work" "$M"
mount --bind "$STATE/home" "$M/home"
if [ -n "$IMAGES" ]; then mount --bind "$IMAGES" "$M/home/images"; fi
mount --bind "$STATE/logs/$HOST" "$M/var/log/slurm"
mount -t proc proc "$M/proc"
mount -t sysfs sysfs "$M/sys"
mount -t tmpfs -o mode=755 tmpfs "$M/run"
if [ -n "$TMP_ON_DISK" ]; then mount --bind "$STATE/tmp" "$M/tmp"; else mount -t tmpfs -o mode=1777 tmpfs "$M/tmp"; fi
mount -t tmpfs -o mode=755 tmpfs "$M/dev"
mkdir "$M/dev/pts" "$M/dev/shm" "$M/dev/mqueue" "$M/dev/nvidia-caps"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$M/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$M/dev/shm"
mount -t mqueue mqueue "$M/dev/mqueue"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 $DEVICES; do
    name=${device%%:*} numbers=${device#*:}
    mknod -m 666 "$M/dev/$name" c "${numbers%:*}" "${numbers#*:}"
done
ln -s pts/ptmx "$M/dev/ptmx"
ln -s /proc/self/fd "$M/dev/fd"
ln -s /proc/self/fd/0 "$M/dev/stdin"
ln -s /proc/self/fd/1 "$M/dev/stdout"
ln -s /proc/self/fd/2 "$M/dev/stderr"
hostname "$HOST"
printf '%s\n' "$BINDS" | while read -r path; do
    [ -n "$path" ] || continue
    if [ -d "$path" ]; then mkdir -p "$M$path"; else mkdir -p "$M${path%/*}"; : >> "$M$path"; fi
    mount --bind "$path" "$M$path"
    mount -o remount,bind,ro "$M$path"
    parent=${path%/*}
    while [ -n "$parent" ]; do chmod a+x "$M$parent"; parent=${parent%/*}; done
done
if [ "$ROLE" = build ] && [ -d /etc/ssl/certs ]; then
    cp -rL /etc/ssl/certs/. "$M/etc/ssl/certs/" 2> /dev/null || true   # dangling links are no loss
fi
read -r go
[ "$go" = go ]
if [ -n "$ADDRESS" ]; then
    ip link set lo up
    ip addr add "$ADDRESS" dev eth0
    ip link set eth0 up
fi
exec > /dev/null < /dev/null
cd "$M"
pivot_root . .                                # not chroot: a chrooted process may not make user namespaces
umount -l .
cd /
exec /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    SLUICE_CLUSTER="$MARK" tini -g -- /usr/local/lib/sluice/init "$ROLE"
