#!/bin/bash
# Submit a sweep as a SLURM array job, one task for each run that has not finished:
#   bash submit.sh SWEEP.yaml FOLDER [options of sbatch, such as --partition=gpu --gres=gpu:1 --time=04:00:00]
set -euo pipefail
sweep=$1 folder=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
if [ -f "$folder/group.yaml" ]; then
  names=$(amos-fl sweep --resume "$folder" --prepare)
else
  names=$(amos-fl sweep "$sweep" --out "$folder" --prepare)
fi
if [ -z "$names" ]; then
  echo "all runs of $folder have finished"
  exit 0
fi
mkdir -p "$folder/slurm"
tasks="$folder/slurm/tasks-$(date +%Y%m%d-%H%M%S)-$$.txt" # of this array: what is queued again reads it again
printf '%s\n' "$names" > "$tasks"
last=$(($(wc -l < "$tasks") - 1))
sbatch --array="0-$last" --output="$folder/slurm/%a.log" --open-mode=append "$@" "$here/task.sh" "$folder" "$tasks"
