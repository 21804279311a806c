#!/usr/bin/env bash
# A sweep on the nodes of a Slurm job: sbatch docs/clusters/slurm.sh
# Ray starts on every node of the job, the sweep runs on the first, and both end with it. Submit it again to resume.
#SBATCH --job-name=sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
set -euo pipefail

# On a file system that all nodes share. Its .venv: `make install TORCH_INDEX=`, then Ray as docs/clusters.md says.
project=$HOME/cifar-sweeps
store=$SCRATCH/sweep        # likewise

umask 077
cd "$project"
export PATH=$project/.venv/bin:$PATH                        # symmetric-run looks for `ray` there
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300           # seconds for all nodes to join, in place of 30
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK              # srun does not take it from sbatch since Slurm 22.05
ray get-auth-token --generate >/dev/null                    # into ~/.ray/auth_token, once

# Ray's head starts on the node that has the address of this name. Where /etc/hosts gives each node 127.0.1.1 for its own
# name, that is none of them: put the address of the first node in the cluster's network here.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" -- \
  python sweeps/run_study.py --trials 500 --store "$store" \
  --engine ray --address "$head:6379" --gpus-per-trial 0.25 --cpus-per-trial 1
