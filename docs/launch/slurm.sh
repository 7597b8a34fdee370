#!/bin/bash
# A run on a Slurm cluster whose nodes see the same files: a task is a worker.
#
#     sbatch docs/launch/slurm.sh -m ms_bert.pretrain --device Ascend --corpus text --output runs/x --auto-resume ...

#SBATCH --job-name=bert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8       # a task for each device; all tasks together are a power of two
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120         # two minutes before the time is over all workers save and stop
#SBATCH --requeue
#SBATCH --open-mode=append        # one log of all attempts
#SBATCH --output=%x-%j.log

# Add what your cluster calls its devices, such as --gpus-per-task=1, and --time.

set -u
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
WORLD_SIZE=$SLURM_NTASKS
export MASTER_ADDR MASTER_PORT WORLD_SIZE

# When one worker fails, the others would wait for it: they are ended.
# shellcheck disable=SC2016  # the variables are those of each task
srun --kill-on-bad-exit=1 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec docs/launch/worker.sh "$@"' \
    worker "$@"
code=$?

# 2 is a mistake in the command. Else a worker was lost or the time is over, and the same command goes on with the run.
if [[ $code != 0 && $code != 2 && ${SLURM_RESTART_COUNT:-0} -lt 100 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
