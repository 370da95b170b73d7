#!/bin/bash
# What a host of the cluster runs after tini: starts the daemons of its role, in the order in which they need each other.
set -eu
role=$1
service() { /usr/local/sbin/sluice-service "$@"; }
umask 022
mkdir /run/sluice-host /run/munge /run/mysqld /run/sshd /run/slurm
ln -s mysqld /run/mariadbd        # some releases look there
chown munge:munge /run/munge
chown mysql:mysql /run/mysqld
chown slurm:slurm /run/slurm
exec >> /var/log/slurm/init.log 2>&1
service start sshd
[ "$role" = build ] || service start munged
case $role in
    ctl)
        service start mariadb
        service start slurmdbd
        /usr/local/lib/sluice/accounts cluster
        service start slurmctld
        service start slurmrestd &
        /usr/local/lib/sluice/accounts users
        wait
        ;;
    node) service start slurmd ;;
esac
touch /run/sluice-host/ready
exec sleep infinity
