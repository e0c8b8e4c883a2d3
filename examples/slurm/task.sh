#!/bin/bash
# One run of a sweep. Three minutes before its time limit SLURM sends SIGTERM: the run ends its step, keeps what it has,
# and is queued again, until it has finished.
#SBATCH --job-name=amos-fl
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
set -uo pipefail
folder=$1 tasks=$2
name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$tasks")
status=0
srun amos-fl sweep --resume "$folder" --only "$name" || status=$?
if [ "$status" -eq 143 ]; then # stopped by SIGTERM
  echo "$name: out of time, queued again"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
  exit 0
fi
exit "$status"
