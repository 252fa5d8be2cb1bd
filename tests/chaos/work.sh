#!/bin/sh
# Does one task: the description says how long it takes, how it ends, and how long the cleaning up takes after SIGTERM.
# Every step is one line of the journal, in one write.
read -r _ seconds exit_code cleanup on_term kind size steps _
key="$TASKSUBMIT_FROM $TASKSUBMIT_TASK_ID $TASKSUBMIT_ATTEMPT"
note() {
    at= # SIGTERM ends the command that asks for the time, too
    while [ -z "$at" ]; do at=$(date +%s.%N); done
    printf '%s %s %s\n' "$1" "$key" "$at" >> "$CHAOS_JOURNAL"
}
clean_up() {
    note term
    sleep "$cleanup"
    note cleaned
    exit "$on_term"
}
trap clean_up TERM
trap '' PIPE # a node that is gone reads no progress; the work goes on until it is ended
# Every process of this execution has the lock: whoever gets it knows that nothing of an earlier one lives.
exec 9>> "$CHAOS_LOCKS/$TASKSUBMIT_FROM-$TASKSUBMIT_TASK_ID"
flock -n 9 || note overlap
note start
while [ "$steps" -gt 0 ]; do
    echo "progress $steps to go" >&3
    sleep "$seconds"
    steps=$((steps - 1))
done
if [ "$exit_code" != 0 ]; then
    note failed
    echo "broken as asked: $TASKSUBMIT_TASK_ID" >&2
    exit "$exit_code"
fi
result() {
    printf '%s\n' "$key"
    head -c "$size" /dev/zero | tr '\0' x
}
if [ "$kind" = file ]; then
    result > result.bin || exit 99
    echo "result-file result.bin" >&3
else
    result
fi
note done
