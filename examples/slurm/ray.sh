#!/bin/bash
# One run over several nodes: Ray on each node of the job, and on it the command given, without its "amos-fl":
#   sbatch --nodes=3 [--gres=gpu:2 ...] ray.sh simulate --config run.yaml --out runs/wide
# Three minutes before its time limit SLURM sends SIGTERM: the run keeps its last complete round, and is queued again.
#SBATCH --job-name=amos-fl
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
set -uo pipefail
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))
address="${nodes[0]}:$port"
started=()
on_node() { # NODE, then the arguments of `ray start`
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" ray start --num-cpus="$SLURM_CPUS_PER_TASK" --block "${@:2}" &
  started+=($!)
}
on_node "${nodes[0]}" --head --node-ip-address="${nodes[0]}" --port="$port" --include-dashboard=false
until_there() { # how many nodes Ray must have
  until [ "$(ray status --address "$address" 2>/dev/null | grep -c '^ 1 node_')" -ge "$1" ]; do
    for process in "${started[@]}"; do
      kill -0 "$process" 2>/dev/null || { echo "Ray did not start on a node; what it said is above"; exit 1; }
    done
    sleep 1
  done
}
until_there 1
for node in "${nodes[@]:1}"; do
  on_node "$node" --address="$address"
done
until_there "${#nodes[@]}"

out='' store=() before=''
for argument in "$@"; do
  case "$before" in
    --out) out=$argument ;;
    --store) store=(--store "$argument") ;;
  esac
  before=$argument
done
if [ -n "$out" ] && [ -f "$out/config.yaml" ]; then # queued again: go on after the last complete round
  set -- "$1" --resume "$out" "${store[@]}"
fi
amos-fl "$@" --engine ray --ray-address "$address" &
run=$!
trap 'kill -TERM "$run"' TERM
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then # the trap ended the first wait
  status=0
  wait "$run" || status=$?
fi
kill "${started[@]}" 2>/dev/null
wait
if [ "$status" -eq 143 ]; then # stopped by SIGTERM
  echo "out of time, queued again"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$status"
