#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 500 s
# link.sh - the contract of links over verbs, by the programs that test it over shm and tcp, and fork; what they held of
# the device is given back.
. "$(dirname "$0")/lib.sh"
need rdma
ulimit -l unlimited
export RIG_DEBUG=1 # what the appliance said is shown when a test fails

# sample PROGRAM: every second a line for each thread of it and of the children it forked
sample() {
	local p t
	while sleep 1; do
		for p in /proc/[0-9]*; do
			[ "$p/exe" -ef "$1" ] || continue
			for t in "$p"/task/*; do
				echo "$SECONDS s ${t#/proc/} $(grep ^State: "$t/status") wchan $(<"$t/wchan") syscall $(<"$t/syscall")"
			done
		done
	done
}

# watched WHAT PROGRAM: check, and when that fails, what its threads did in its last 30 s: whoever hangs is seen there
watched() {
	local before=$failed
	sample "$2" >"$tmp/samples" 2>/dev/null &
	children+=($!)
	check "$@"
	kill "${children[-1]}"
	wait "${children[-1]}" 2>/dev/null
	unset 'children[-1]'
	[ "$failed" = "$before" ] || awk -v "from=$((SECONDS - 30))" '$1 >= from' "$tmp/samples"
}

before=$(resources)
watched "contract" "$XMEM_BUILD/tests/unit/test_link"
watched "lent" "$XMEM_BUILD/tests/unit/test_link_lent"
watched "sharing" "$XMEM_BUILD/tests/unit/test_link_share"
watched "loss" "$XMEM_BUILD/tests/unit/test_link_loss"
watched "fork" "$XMEM_BUILD/tests/unit/test_fork_runtime"
unchanged "resources" "$before"
finish
