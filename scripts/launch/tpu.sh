#!/usr/bin/env bash
# Trains on all hosts of a TPU slice of Google Cloud.
#
#     scripts/launch/tpu.sh <name of the TPU> <zone> --config=configs/tsm_k400.py \
#         --config.model.dtype=bfloat16 --config.data_dir=/mnt/data/k400 --workdir=/mnt/runs/tsm_k400
#
# Before, once:
#
#     gcloud compute tpus tpu-vm create <name> --zone=<zone> --accelerator-type=v5litepod-16 \
#         --version=v2-alpha-tpuv5-lite
#     gcloud compute tpus tpu-vm ssh <name> --zone=<zone> --worker=all \
#         --command='git clone <repository> trn_jax && cd trn_jax && pip install -e ".[tpu]"'
#
# where python3 is at least 3.11 (or install one, and put its environment before it on the PATH), and
# a disk that all hosts see under /mnt: Filestore, or a bucket with a hierarchical namespace mounted
# with Cloud Storage FUSE (others cannot rename folders, which is how a checkpoint becomes complete).
#
# The hosts find each other. One that fails starts again with the others (again.py). If the connection
# is lost, the training goes on; what it says is in ~/trn_jax.log on every host. After a maintenance
# or a preemption of the whole slice, run this command again. To end a training, after it has saved:
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
# In a session of its own, and with a file to write to, it does not need the connection. What is shown
# begins where the file ended, not where it ends once `tail` has started: the first lines, often those
# that say what is wrong, may be in it by then.
run="setsid scripts/launch/again.py python3 -m trn_jax.main$flags"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="cd trn_jax &&
  from=\$((\$(cat ~/trn_jax.log 2>/dev/null | wc -c) + 1)) &&
  { nohup $run >>~/trn_jax.log 2>&1 </dev/null & tail --pid=\$! -c +\$from -F ~/trn_jax.log; wait \$!; }"
