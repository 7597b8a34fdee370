# Read by the scripts that start workers in the background. Their trap for signals sets stopped=yes.
# shellcheck shell=bash
stopped=''

# Wait for these processes; leaves the highest exit code in $code. When one worker fails, the others would wait for it, so
# this does not wait for them: the caller ends them. It looks every half second, for "wait -n" says the same when a
# process has ended and when a signal has come.
wait_for() {
    local running worker ended
    code=0
    while true; do
        running=()
        for worker in "$@"; do
            if kill -0 "$worker" 2> /dev/null; then
                running+=("$worker")
                continue
            fi
            wait "$worker"
            ended=$?
            ((ended > code)) && code=$ended
        done
        ((${#running[@]} == 0)) && return
        if ((code != 0)) && [[ ! $stopped ]]; then
            ((code == 2)) && sleep 2 # what one refuses the others refuse too, and worker 0 says it
            return
        fi
        set -- "${running[@]}"
        sleep 0.5
    done
}
