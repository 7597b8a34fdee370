#!/bin/bash
# Becomes one of several workers: sets what MindSpore and PyTorch read of their own launchers, then runs Python.
#
#     RANK=3 LOCAL_RANK=3 WORLD_SIZE=16 MASTER_ADDR=node0 MASTER_PORT=29500 worker.sh -m ms_bert.pretrain ...
#
# RANK is the number of the worker, LOCAL_RANK that of its device on its machine; MASTER_ADDR is the machine of worker 0,
# where MASTER_PORT is free. PYTHON may name a Python.

set -eu
python=${PYTHON:-python}
for name in RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT; do
    if [[ -z ${!name:-} ]]; then
        echo "$0: $name is not set; see the top of this file" >&2
        exit 2
    fi
done

# PyTorch reads the five variables themselves.
export RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT

# MindSpore reads others, and wants a number for the address. Its workers find each other by a scheduler, which runs
# beside worker 0 and is the same command in another role. Without it they would wait for ever at the end: where it fails,
# worker 0 is killed. Of 2, a mistake in the command, worker 0 tells itself.
address=$(getent ahostsv4 "$MASTER_ADDR" | awk '{ print $1; exit }')
export MS_WORKER_NUM=$WORLD_SIZE MS_SCHED_HOST=${address:-$MASTER_ADDR} MS_SCHED_PORT=$MASTER_PORT
export MS_NODE_ID=$RANK RANK_ID=$RANK DEVICE_ID=$LOCAL_RANK
if [[ $RANK == 0 && " $* " == *" ms_bert."* ]]; then
    { MS_ROLE=MS_SCHED "$python" "$@" || (($? == 2)) || kill -KILL $$; } > /dev/null 2>&1 &
fi
export MS_ROLE=MS_WORKER
exec "$python" "$@"
