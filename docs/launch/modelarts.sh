#!/bin/bash
# A run on ModelArts, as the boot command of a training job; ModelArts starts it on every node.
#
#     bash docs/launch/modelarts.sh -m ms_bert.pretrain --device Ascend --corpus text --output runs/x --auto-resume ...
#
# ModelArts sets MA_NUM_HOSTS, MA_NUM_GPUS (devices of a node, NPUs too), VC_TASK_INDEX (the number of this node) and
# VC_WORKER_HOSTS. A device has a worker; all together are a power of two. Let --output be in storage that the nodes
# share and that outlives the job, and let the job restart after a failure: the same command goes on with the run.

set -u
# shellcheck source=docs/launch/waiting.sh
source "$(dirname "$0")/waiting.sh"
for name in MA_NUM_HOSTS MA_NUM_GPUS VC_TASK_INDEX VC_WORKER_HOSTS; do
    if [[ -z ${!name:-} ]]; then
        echo "$0: $name is not set; ModelArts sets it, and elsewhere ssh.sh serves" >&2
        exit 2
    fi
done
export WORLD_SIZE=$((MA_NUM_HOSTS * MA_NUM_GPUS)) MASTER_ADDR=${VC_WORKER_HOSTS%%,*} MASTER_PORT=${MASTER_PORT:-29500}
workers=()
trap 'stopped=yes; kill -TERM "${workers[@]}"' TERM INT
for ((device = 0; device < MA_NUM_GPUS; device++)); do
    RANK=$((VC_TASK_INDEX * MA_NUM_GPUS + device)) LOCAL_RANK=$device setsid "$(dirname "$0")/worker.sh" "$@" &
    workers+=($!)
done

wait_for "${workers[@]}"
for worker in "${workers[@]}"; do kill -KILL -- "-$worker" 2> /dev/null; done # and all that they have started
exit "$code"
