#!/usr/bin/env bash
# The first ten minutes on a GPU, in one command:
#
#     scripts/gpu_session.sh gpu_session            # writes the folder, and gpu_session/session.json
#     scripts/gpu_session.sh --dry-run some_folder  # on a CPU, with small networks: measures nothing
#
# Parts follow one another, the most important first, each with a limit of its own, so that a session
# that ends early has most of what counts. A part that fails or takes too long costs that part.
# Further arguments go to the parts with a loader, such as --config.data_dir=data/k400; RECIPE names
# their recipe (default: trn_synthetic, whose data set is written first). PYTHON names the interpreter.
# In the folder of an earlier session, its files and its run are replaced, and nothing else.
# Copy session.json to docs/gpu_session.json for the page on performance.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
if [ $# = 0 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: scripts/gpu_session.sh [--dry-run] FOLDER [--config...]" >&2
  exit 2
fi
out=$1
shift
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)

# forget NAME: remove what an earlier session wrote of a part.
forget() {
  rm -f "$out/$1.log" "$out/$1.jsonl"
}

if [ -f "$out/parts.tsv" ]; then
  while IFS=$'\t' read -r name _; do forget "$name"; done <"$out/parts.tsv"
  rm -f "$out/parts.tsv" "$out/session.json"
  rm -rf "$out/runs/profiled" # a training would resume, and take no step
fi

python=${PYTHON:-python}
recipe=${RECIPE:-trn_synthetic}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
benchmark=("$python" "$root/scripts/benchmark.py")
if $dry; then
  export JAX_PLATFORMS=cpu
  small=(--batch=2 --frames=2 --pixels=32 --rounds=1 --steps=1 --pytorch=)
  networks=tsm_synthetic
  first=tsm_synthetic
  protocol=(--config=trn_synthetic --protocol=efficient --rounds=1 --steps=1)
  loader=(--rounds=1 --steps=1)
  steps=4 profile=2:3
else
  small=()
  networks=tsm_k400,trn_sthv1,tpn_slowonly_k400,tsn_resnext101_k400_3seg
  first=tsm_k400
  protocol=(--config=tsn_k400_3seg --protocol=25x10 --rounds=3 --steps=5)
  loader=(--rounds=3 --steps=30)
  steps=80 profile=41:70
fi

# part NAME SECONDS COMMAND...: run a command, and note how it ended.
part() {
  local name=$1 limit=$2 begun=$SECONDS status
  shift 2
  if $dry; then limit=$((20 * limit)); fi  # a busy CPU
  echo "== $name"
  forget "$name" # of a session that ended in this part; records would be appended
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  [ $status = 0 ] || tail -n 3 "$out/$name.log"
  printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - begun))" "$*" >>"$out/parts.tsv"
}

# train NAME SECONDS FLAGS...: training steps on noise.
train() {
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "${benchmark[@]}" --what=train --record="$out/$name.jsonl" \
    "$@" "${small[@]}"
}

flags=${XLA_FLAGS:-}
train steps 240 --recipes=$networks
train float32 60 --recipes=$first --dtype=float32 --pytorch=
XLA_FLAGS="$flags --xla_gpu_force_conv_nhwc=true" \
  train float32_nhwc 60 --recipes=$first --dtype=float32 --pytorch=
train small_batch 60 --recipes=$first --batch=2 --pytorch=
XLA_FLAGS="$flags --xla_gpu_enable_command_buffer=" \
  train small_batch_without_command_buffers 60 --recipes=$first --batch=2 --pytorch=
part loader 120 "${benchmark[@]}" --what=both --config="$recipe" \
  --workdir="$out/runs/benchmark" --record="$out/loader.jsonl" "${loader[@]}" "$@"
part profile 120 "$python" -m trn_jax.main --config="$recipe" \
  --workdir="$out/runs/profiled" --profile_steps=$profile --config.train.steps=$steps \
  --config.train.log_every=10 --config.train.eval_every=0 "$@"
for views in 16 64; do
  part "views_$views" 90 "${benchmark[@]}" --what=protocol --record="$out/views_$views.jsonl" \
    "${protocol[@]}" --config.eval.max_views_per_step=$views
done

"$python" "$root/scripts/benchmarks/session.py" "$out" $($dry && echo --dry-run)
