#!/bin/bash
# A run on machines that are reached by ssh without a password and see the same files under the same path.
#
#     docs/launch/ssh.sh "node0 node1" -m pt_reference.pretrain --corpus text --threads 8 --output runs/x --auto-resume ...
#
# A machine has as many workers as it is named times; all together are a power of two. When one fails, all are ended and
# started again, RESTARTS times (3). Ctrl-C and SIGTERM let all save and stop.

set -u
if (($# < 2)) || [[ -z ${1// /} ]]; then
    echo "$0: name machines and a command, such as $0 \"node0 node1\" -m ms_bert.pretrain --output runs/x" >&2
    exit 2
fi
# shellcheck source=docs/launch/waiting.sh
source "$(dirname "$0")/waiting.sh"
read -ra hosts <<< "$1"
shift
port=${MASTER_PORT:-29500}
folder=$(mktemp -d -p "$PWD" .launch-XXXXXX) # of process numbers
trap 'rm -rf "$folder"' EXIT

each() { # SIGNAL: to every worker; KILL to all that they have started, too
    for rank in "${!hosts[@]}"; do
        number=$(cat "$folder/$rank" 2> /dev/null) || continue
        [[ $1 == KILL ]] && number="-$number"
        ssh -n "${hosts[rank]}" "kill -$1 -- $number" 2> /dev/null
    done
}

trap 'stopped=yes; each TERM' INT TERM

attempt() { # leaves the exit code of the run in $code
    declare -A used=()
    workers=()
    for rank in "${!hosts[@]}"; do
        host=${hosts[rank]}
        variables="RANK=$rank LOCAL_RANK=${used[$host]:-0} WORLD_SIZE=${#hosts[@]} MASTER_ADDR=${hosts[0]} MASTER_PORT=$port"
        used[$host]=$((${used[$host]:-0} + 1))
        here=$(printf 'cd %q && echo $$ > %q && ' "$PWD" "$folder/$rank")
        ssh -n "$host" "$here $variables PYTHON=$(printf %q "${PYTHON:-python}") exec docs/launch/worker.sh $(printf '%q ' "$@")" &
        workers+=($!)
    done
    wait_for "${workers[@]}"
    each KILL # MindSpore's scheduler may run on, too
    wait
}

for ((restart = 0; restart <= ${RESTARTS:-3}; restart++)); do
    attempt "$@"
    if [[ $code == 0 || $code == 2 || $stopped ]]; then
        break
    fi
    echo "a worker ended with exit code $code" >&2
done
exit "$code"
