#!/usr/bin/env bash
# Train on the GPUs of several nodes under Slurm.
#
#     sbatch --nodes=2 --gpus-per-node=8 scripts/launch/slurm.sh \
#         --config=configs/tsm_k400.py --config.data_dir=... --workdir=/shared/runs/tsm_k400
#
# Each node runs one task, which uses all its GPUs; Slurm's environment connects the tasks. The
# working directory is on a disk that all nodes share. Submit from the repository, with the
# environment active.
#
# After a failure, all tasks start again (again.py). Two minutes before the time limit they save and
# exit with status 75, and the job is requeued, as it is after a preemption or a node failure.
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

# When a task fails, the others log which one and exit by themselves.
srun --label --kill-on-bad-exit=0 scripts/launch/again.py python -m trn_jax.main "$@"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
