#!/bin/bash
# sluice-service start|stop|restart|status NAME, sluice-service signal NAME SIGNAL: a host's daemons one by one, e.g. to
# see what happens without slurmctld, or while it hangs (STOP, CONT).
set -u
action=${1:-} name=${2:-}
services="munged mariadb slurmdbd slurmctld slurmrestd slurmd sshd"
case " $services " in *" $name "*) ;; *) echo "no service $name: $services" >&2; exit 2 ;; esac
pid_file=/run/sluice-host/$name.pid
log=/var/log/slurm/$name.out

alive() { [ -s "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2> /dev/null; }
until_true() {     # at most two minutes, as long as it lives
    for _ in {1..6000}; do "$@" > /dev/null 2>&1 && return 0; alive || return 1; sleep 0.02; done
    return 1
}
listening() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
as() { user=$1; shift; exec setsid setpriv --reuid="$user" --regid="$user" --init-groups "$@"; }
run() {
    case $name in
        munged) as munge munged --foreground --num-threads=4 ;;
        mariadb) rm -f /var/lib/mysql/*.pid; exec setsid mariadbd --user=mysql --datadir=/var/lib/mysql ;;
        slurmdbd) as slurm slurmdbd -D ;;
        slurmctld) as slurm slurmctld -D ;;
        slurmrestd) export SLURM_JWT=daemon; as slurmrestd slurmrestd -a rest_auth/jwt 0.0.0.0:6820 ;;
        slurmd) exec setsid slurmd -D ;;
        sshd) exec setsid /usr/sbin/sshd -D -e ;;
    esac
}
up() {
    case $name in
        munged) until_true test -S /run/munge/munge.socket.2 ;;
        mariadb) until_true test -S /run/mysqld/mysqld.sock ;;
        slurmdbd) until_true listening 6819 ;;
        slurmctld) until_true timeout 10 scontrol ping ;;      # it listens before it has loaded what it needs slurmdbd for
        slurmrestd) until_true listening 6820 ;;
        *) alive ;;
    esac
}
start() {
    alive && return 0
    (run) >> "$log" 2>&1 < /dev/null &
    echo $! > "$pid_file"
    up || { echo "$name did not start; the end of $log:" >&2; tail -n 5 "$log" >&2; return 1; }
}
gone() {            # at most 30 s
    for _ in {1..1500}; do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.02; done
    return 1
}
stop() {
    alive || return 0
    pid=$(cat "$pid_file")
    kill "$pid"
    gone || { kill -9 "$pid"; gone; } 2> /dev/null
    rm -f "$pid_file"
}
send() {            # a killed daemon is gone when this returns: until its process is, a start would find it running
    pid=$(cat "$pid_file")
    kill -s "$1" "$pid"
    [ "$1" != KILL ] || gone || { echo "$name does not end" >&2; return 1; }
}
case $action in
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    status) if alive; then echo running; else echo stopped; exit 3; fi ;;
    signal) alive || { echo "$name does not run" >&2; exit 3; }; send "${3:?which signal}" ;;
    *) echo "usage: sluice-service start|stop|restart|status NAME | signal NAME SIGNAL" >&2; exit 2 ;;
esac
