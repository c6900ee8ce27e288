#!/usr/bin/env bash
# Runs a command on this host, and again after a failure, until it is done.
#
#     scripts/launch/again.sh python -m trn_jax.main --config=... --workdir=...
#
# To be started on every host. When one of them dies, the others end by themselves
# (train.step_timeout), and all start again, wait for each other (--hosts_timeout) and go on from the
# last checkpoint. Not again after status 0, after 2, an error that would come again, and not once
# this script has been asked to end by SIGTERM or SIGINT, which it passes on. At most RESTARTS times
# (10). The exit status is that of the last run; 75, the one of a training that was interrupted and
# can go on, also if SIGTERM came before it had begun, or between two runs.
set -u

restarts=${RESTARTS:-10}
interrupted=75
asked=""
child=""
trap 'asked=TERM; [ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM
trap 'asked=INT; [ -n "$child" ] && kill -INT "$child" 2>/dev/null' INT

if [ $# -eq 0 ]; then
  echo "again.sh: give the command to run, such as: again.sh python -m trn_jax.main --config=..." >&2
  exit 2
fi

attempt=0
while true; do
  "$@" &
  child=$!
  wait "$child"
  status=$?
  # A signal ends `wait` before the command has ended.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    status=$?
  done
  child=""
  if [ "$asked" = TERM ] && [ "$status" -eq 143 ]; then
    exit "$interrupted"
  fi
  if [ "$status" -eq 0 ] || [ "$status" -eq 2 ] || [ -n "$asked" ] || [ "$attempt" -ge "$restarts" ]; then
    exit "$status"
  fi
  attempt=$((attempt + 1))
  echo "again.sh: exit status $status; start $((attempt + 1)) of at most $((restarts + 1))" >&2
  sleep "${PAUSE:-5}" &
  child=$!
  wait "$child"
  if [ -n "$asked" ]; then
    kill "$child" 2>/dev/null
    [ "$asked" = TERM ] && exit "$interrupted"
    exit "$status"
  fi
  child=""
done
