# Read by the scripts that start workers in the background. Their trap for signals sets both of these.
# shellcheck shell=bash
stopped='' interrupted=''

# Wait for so many workers; leaves the highest exit code in $code. When one worker fails, the others would wait for it, so
# this does not wait for them: the caller ends them.
wait_for() {
    local running=$1 ended
    code=0
    while ((running)); do
        wait -n
        ended=$?
        if [[ $interrupted ]]; then # no worker has ended, but a signal has come
            interrupted=''
            continue
        fi
        running=$((running - 1))
        ((ended > code)) && code=$ended
        if ((ended != 0)) && [[ ! $stopped ]]; then
            ((ended == 2)) && sleep 2 # what one refuses the others refuse too, and worker 0 says it
            return
        fi
    done
}
