#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
#
# example_kv.sh - the example program of the API over both links: every value right, more than the budget travelled,
# the region grown, and the appliance's memory free again afterwards.
set -u
build=${XMEM_BUILD:?XMEM_BUILD names the build directory}
kv=$build/examples/kv
[ -x "$kv" ] && [ -x "$build/xmem-appliance" ] || { echo "$kv is not built"; exit 77; }
unset XMEM_MASK XMEM_FAMILY LD_PRELOAD
tmp=$(mktemp -d)
failed=0

start() {
	mkfifo "$tmp/ready"
	"$build/xmem-appliance" --memory 512M --listen "$1" --ready-fd 9 --log-level error 9>"$tmp/ready" &
	pid=$!
	read -r uri _ <"$tmp/ready"
	rm "$tmp/ready"
}

stop() {
	kill "$pid"
	wait "$pid" || { echo "the appliance ended with $?"; failed=1; }
}
trap 'kill "$pid" 2>/dev/null; rm -rf "$tmp"' EXIT

for listen in "shm:$tmp/sock" tcp:127.0.0.1:0; do
	start "$listen"
	for run in 1 2; do # the second finds all the memory free again
		"$kv" "$uri" 12000 16 >"$tmp/out" 2>"$tmp/err"
		rc=$?
		cat "$tmp/out" "$tmp/err"
		[ "$rc" = 0 ] || { echo "FAILED: $listen: status $rc"; failed=1; }
		grep -q '^0 values wrong' "$tmp/out" || { echo "FAILED: $listen: values"; failed=1; }
		grep -q 'local [0-9]* of 16 MiB' "$tmp/out" || { echo "FAILED: $listen: figures"; failed=1; }
		[ ! -s "$tmp/err" ] || { echo "FAILED: $listen: something on stderr"; failed=1; }
	done
	"$kv" "$uri" 2 4 >/dev/null || { echo "FAILED: $listen: two values"; failed=1; }
	stop
done
"$kv" shm:@nobody-there 10 >"$tmp/out" 2>"$tmp/err" && { echo "FAILED: without an appliance it succeeds"; failed=1; }
[ "$(wc -l <"$tmp/err")" = 1 ] || { echo "FAILED: not one line:"; cat "$tmp/err"; failed=1; }
for wrong in '' @u '@u 0' '@u 1' '@u abc' '@u 12x' '@u -5' '@u 99999999999999999999' '@u 10 abc' '@u 10 0' '@u 10 16 x'; do
	"$kv" $wrong >"$tmp/out" 2>"$tmp/err"
	rc=$?
	case $wrong in @u) want=1 ;; *) want=2 ;; esac
	[ "$rc" = "$want" ] && [ "$(wc -l <"$tmp/err")" = 1 ] || { echo "FAILED: kv $wrong: status $rc"; cat "$tmp/err"; failed=1; }
done
exit $failed
