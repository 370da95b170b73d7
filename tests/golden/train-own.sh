#!/bin/bash
#SBATCH --job-name=sluice-01jd0zq8x5t4y7r3m2n6p9k1vb-1
#SBATCH --partition=cpu
#SBATCH --account=research
#SBATCH --time=60
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4096M
#SBATCH --gres=gpu:2
#SBATCH --chdir=/
#SBATCH --output=/dev/null
#SBATCH --no-requeue
# Sluice session 01JD0ZQ8X5T4Y7R3M2N6P9K1VB, attempt 1: train 1.0.
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
# On the node, and removed by the agent.
runtime=$(mktemp -d "${TMPDIR:-/tmp}/sluice-XXXXXX" || mktemp -d /tmp/sluice-XXXXXX) || give_up "cannot write in /tmp" 73
cat >"$runtime/spec.json" <<'SLUICE_SPEC' || give_up "cannot write $runtime/spec.json" 73
{
 "version": 1,
 "session": "01JD0ZQ8X5T4Y7R3M2N6P9K1VB",
 "attempt": 1,
 "kind": "batch",
 "directory": ".sluice/sessions/01JD0ZQ8X5T4Y7R3M2N6P9K1VB",
 "container": {
  "image": "/images/pytorch.sif",
  "sha256": "5555555555555555555555555555555555555555555555555555555555555555",
  "verify": false,
  "gpu": "nvidia",
  "binds": [
   {
    "source": "/home/alice/train.py",
    "target": "/inputs/script/train.py",
    "read_only": true,
    "below": null
   }
  ],
  "command": null,
  "script": "#!/bin/bash\nset -eu\narguments=()\nfor ((i = 0; i < PARAM_ARGUMENTS_COUNT; i++)); do\n  value=PARAM_ARGUMENTS_$i\n  arguments+=(\"${!value}\")\ndone\nprogram=${PARAM_SCRIPT:-}\nif [ -z \"$program\" ]; then\n  program=$(mktemp --suffix=.py)\n  trap 'rm -f -- \"$program\"' EXIT\n  cat >\"$program\" <<'PYTHON'\n\"\"\"Fits a small network to a noisy curve on all processes, and prints the loss.\"\"\"\nimport os\n\nimport torch\nimport torch.distributed as dist\nfrom torch.nn.parallel import DistributedDataParallel\n\ngpu = torch.cuda.is_available()\ndist.init_process_group(\"nccl\" if gpu else \"gloo\")\nrank, world = dist.get_rank(), dist.get_world_size()\ndevice = torch.device(\"cuda\", int(os.environ[\"LOCAL_RANK\"])) if gpu else torch.device(\"cpu\")\ntorch.manual_seed(0)\nmodel = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(device)\nmodel = DistributedDataParallel(model)\noptimiser = torch.optim.Adam(model.parameters(), lr=0.02)\ntorch.manual_seed(1 + rank)  # every process has its own data\nx = torch.rand(512, 1, device=device) * 6 - 3\ny = torch.sin(x) + 0.05 * torch.randn_like(x)\nepochs = int(os.environ[\"PARAM_EPOCHS\"])\nfor epoch in range(1, epochs + 1):\n    for _ in range(50):\n        optimiser.zero_grad()\n        loss = torch.nn.functional.mse_loss(model(x), y)\n        loss.backward()\n        optimiser.step()\n    mean = loss.detach().clone()\n    dist.all_reduce(mean)\n    if rank == 0:\n        print(f\"epoch {epoch}/{epochs} loss {mean.item() / world:.5f} processes {world}\", flush=True)\nif rank == 0:\n    torch.save(model.module.state_dict(), \"model.pt\")\n    print(\"saved model.pt\", flush=True)\ndist.destroy_process_group()\nPYTHON\nfi\nprocesses=${PARAM_PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}\ncpus=${SLURM_CPUS_PER_TASK:-$PARAM_CPUS}\nexport OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > processes ? cpus / processes : 1))}\nif [ \"${SLURM_NNODES:-1}\" -gt 1 ]; then\n  # All nodes meet at the first one.\n  meeting=(--nnodes \"$SLURM_NNODES\" --node-rank \"$SLURM_NODEID\"\n    --master-addr \"$SLUICE_HEAD_NODE\" --master-port \"$SLUICE_HEAD_PORT\")\nelse\n  meeting=(--standalone --nnodes 1)\nfi\ntorchrun \"${meeting[@]}\" --nproc-per-node \"$processes\" \"$program\" ${arguments[@]+\"${arguments[@]}\"}\n",
  "env": {
   "PARAM_SCRIPT": "/inputs/script/train.py",
   "PARAM_ARGUMENTS_COUNT": "2",
   "PARAM_ARGUMENTS_0": "--lr",
   "PARAM_ARGUMENTS_1": "0.1",
   "PARAM_NODES": "1",
   "PARAM_GPUS": "2",
   "PARAM_CPUS": "2",
   "PARAM_EPOCHS": "5"
  }
 },
 "launcher": [],
 "service": null,
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
