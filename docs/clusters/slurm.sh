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

project=$HOME/cifar-sweeps  # with .venv, on a file system that all nodes share
store=$SCRATCH/sweep        # likewise

umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token RAY_USAGE_STATS_ENABLED=0
[ -s "$RAY_AUTH_TOKEN_PATH" ] || "$project/.venv/bin/ray" get-auth-token --generate >/dev/null

cd "$project"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 .venv/bin/ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" --include-dashboard false -- \
  .venv/bin/python sweeps/run_study.py --trials 500 --store "$store" \
  --engine ray --address "$head:6379" --gpus-per-trial 0.25 --cpus-per-trial 1
