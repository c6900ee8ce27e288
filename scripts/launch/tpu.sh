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
# and a disk that all hosts see (Filestore, or a bucket mounted with Cloud Storage FUSE) under /mnt.
# The hosts find each other. One that fails starts again with the others (again.sh); after a
# maintenance or a preemption of the whole slice, run this command again.
set -eu

if [ $# -lt 3 ]; then
  echo "tpu.sh: expected <name of the TPU> <zone> --config=... --workdir=..., found: $*" >&2
  exit 2
fi
name=$1
zone=$2
shift 2
printf -v flags ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd trn_jax && scripts/launch/again.sh python3 -m trn_jax.main$flags"
