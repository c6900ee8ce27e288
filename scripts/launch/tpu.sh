#!/usr/bin/env bash
# Train on all machines of a Google Cloud TPU slice.
#
#     scripts/launch/tpu.sh <name of the TPU> <zone> --config=configs/tsm_k400.py \
#         --config.data_dir=/mnt/data/k400 --workdir=/mnt/runs/tsm_k400
#
# Once, before:
#
#     gcloud compute tpus tpu-vm create <name> --zone=<zone> --accelerator-type=v5litepod-16 \
#         --version=v2-alpha-tpuv5-lite
#     gcloud compute tpus tpu-vm ssh <name> --zone=<zone> --worker=all \
#         --command='git clone <repository> trn_jax && cd trn_jax && pip install -e ".[tpu]"'
#
# This needs python3 >= 3.11 on the PATH, and a disk that all machines share under /mnt: Filestore,
# or a bucket with a hierarchical namespace mounted with Cloud Storage FUSE. (Other buckets can't
# rename folders, and renaming is what completes a checkpoint.)
#
# Cloud TPU's metadata connects the processes. After a failure, all start again (again.py). If the
# connection is lost, training continues; its log is in ~/trn_jax.log on every machine. After
# maintenance or a preemption of the whole slice, run this command again. To save and stop:
#
#     gcloud compute tpus tpu-vm ssh <name> --zone=<zone> --worker=all \
#         --command='pkill -f "python3 scripts/launch/[a]gain.py"'
set -eu

if [ $# -lt 3 ]; then
  echo "tpu.sh: expected <name of the TPU> <zone> --config=... --workdir=..., found: $*" >&2
  exit 2
fi
name=$1
zone=$2
shift 2
printf -v flags ' %q' "$@"
# In its own session and with output to a file, training outlives the connection. `tail` shows the
# log from where it ended before this run: the first lines may be written before `tail` starts.
run="setsid scripts/launch/again.py python3 -m trn_jax.main$flags"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd trn_jax &&
  from=\$((\$(cat ~/trn_jax.log 2>/dev/null | wc -c) + 1)) &&
  { nohup $run >>~/trn_jax.log 2>&1 </dev/null & tail --pid=\$! -c +\$from -F ~/trn_jax.log; wait \$!; }"
