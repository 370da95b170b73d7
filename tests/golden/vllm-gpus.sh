#!/bin/bash
#SBATCH --job-name=sluice-01jd0zq8x5t4y7r3m2n6p9k1vb-1
#SBATCH --partition=gpu
#SBATCH --account=research
#SBATCH --time=240
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32768M
#SBATCH --gres=gpu:a100:4
#SBATCH --constraint=nvlink
#SBATCH --chdir=/
#SBATCH --output=/dev/null
#SBATCH --no-requeue
# Sluice session 01JD0ZQ8X5T4Y7R3M2N6P9K1VB, attempt 1: vllm 1.0.
set -u
umask 077
export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"
# slurmrestd gives a job no HOME, and the session folder must be found whatever HOME says.
home=$(getent passwd "$(id -u)" | cut -d: -f6)
export HOME="${HOME:-$home}"
give_up() {
  echo "sluice: $1" >&2
  scontrol update "JobId=${SLURM_JOB_ID:-0}" "Comment=sluice/1 ended reason=agent_error code=$2"
  exit "$2"
}
need() {
  command -v "$1" >/dev/null || give_up "$1 is not on the PATH of $(uname -n): $PATH" 69
}
session=.sluice/sessions/01JD0ZQ8X5T4Y7R3M2N6P9K1VB
case $session in /*) ;; *) session=$home/$session ;; esac
mkdir -p -- "$session" || give_up "cannot make $session" 73
exec </dev/null >>"$session/job-1.log" 2>&1 || give_up "cannot write in $session" 73
need python3
# The agent makes a certificate here and announces the service's address in a field of this job.
need openssl
need scontrol
# On the node, and removed by the agent.
runtime=$(mktemp -d "${TMPDIR:-/tmp}/sluice-XXXXXX" || mktemp -d /tmp/sluice-XXXXXX) || give_up "cannot write in /tmp" 73
cat >"$runtime/spec.json" <<'SLUICE_SPEC' || give_up "cannot write $runtime/spec.json" 73
{
 "version": 1,
 "session": "01JD0ZQ8X5T4Y7R3M2N6P9K1VB",
 "attempt": 1,
 "kind": "service",
 "directory": ".sluice/sessions/01JD0ZQ8X5T4Y7R3M2N6P9K1VB",
 "container": {
  "image": "/images/vllm.sif",
  "sha256": "5555555555555555555555555555555555555555555555555555555555555555",
  "verify": false,
  "gpu": "nvidia",
  "binds": [
   {
    "source": "/data/llama",
    "target": "/inputs/model/llama",
    "read_only": true,
    "below": null
   }
  ],
  "command": [
   "vllm",
   "serve",
   "/inputs/model/llama",
   "--served-model-name",
   "llama",
   "--uds",
   "/run/sluice/service.sock",
   "--tensor-parallel-size",
   "4",
   "--dtype",
   "bfloat16",
   "--quantization",
   "fp8",
   "--gpu-memory-utilization",
   "0.9",
   "--seed=1"
  ],
  "script": null,
  "env": {
   "HF_HUB_OFFLINE": "1",
   "VLLM_NO_USAGE_STATS": "1",
   "DO_NOT_TRACK": "1",
   "VLLM_HOST_IP": "127.0.0.1"
  }
 },
 "launcher": [],
 "service": {
  "listen": "socket",
  "probe": {
   "kind": "completion",
   "path": "/v1/completions",
   "model": "llama",
   "timeout": 120.0
  },
  "prefix": "",
  "start_timeout": 1800.0,
  "probe_interval": 0.5,
  "activity": null
 },
 "stop": {
  "grace": 15.0,
  "kill_after": 30.0,
  "before_limit": 60.0
 },
 "secrets": [],
 "secrets_timeout": 300.0,
 "client_ca": "(the gateway's CA)\n",
 "comment_field": "comment",
 "gateway": "",
 "requeue": false
}
SLUICE_SPEC
base64 -d >"$runtime/agent.pyz" <<'SLUICE_AGENT' || give_up "cannot write $runtime/agent.pyz" 73
(the agent)
SLUICE_AGENT
printf '%s  %s\n' (its digest) "$runtime/agent.pyz" | sha256sum --check --status || give_up "the agent is damaged" 70
exec python3 -I -X utf8 "$runtime/agent.pyz" "$runtime/spec.json"
