#!/bin/sh
# expect_status.sh STATUS COMMAND...: succeeds when the command ends with just that status.
expected=$1
shift
"$@"
test $? -eq "$expected"
