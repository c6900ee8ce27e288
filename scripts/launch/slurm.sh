#!/usr/bin/env bash
# Trains on the GPUs of several nodes under Slurm.
#
#     sbatch --nodes=2 --gpus-per-node=8 scripts/launch/slurm.sh \
#         --config=configs/tsm_k400.py --config.data_dir=... --workdir=/shared/runs/tsm_k400
#
# One task per node takes all its GPUs; the tasks find each other. The working directory lies on a
# disk that all nodes see. Submit it in the repository, with the environment active.
#
# A task that fails starts again with the others (again.py). Two minutes before the time limit all
# save and end with status 75, and the job is put back into the queue; so it is after a preemption or
# the failure of a node.
#SBATCH --job-name=trn_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u

# Tasks are not ended at once when one fails: each says what it knows, and they end by themselves.
srun --label --kill-on-bad-exit=0 scripts/launch/again.py python -m trn_jax.main "$@"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
