#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 400 s
# loss.sh - a program goes on, and is right, when the way to its appliance is interrupted for less than the lease:
#   the other node stands still      longer than a queue pair tries (4.096 us * 2^14, 4 times, at most 1.1 s)
#   nothing reaches it               as on a cut cable: until the queue pairs have broken, and twice. (After its interface
#                                    was down, soft-RoCE itself answers no connection request any more, rping's neither.)
. "$(dirname "$0")/../lib.sh"
need python3 rdma ip
[ -n "${RDMA_VM_REQ:-}" ] || skip "stops another machine: only in guests"

# Goes over its blocks round after round: each is as the last round left it, and is changed. Says each round in PROGRESS;
# when STOP is there it prints a digest of all, as it would be after any number of rounds.
cat >"$tmp/rounds.py" <<-END
	import hashlib, os, sys
	progress, stop = sys.argv[1:]
	n, size = 160, 65536
	def content(i, turn):
	    return (b"%04d %06d " % (i, turn)) * (size // 12)
	blocks, turn = [content(i, 0) for i in range(n)], 0
	while not os.path.exists(stop):
	    for i in range(n):
	        if blocks[i] != content(i, turn):
	            sys.exit(f"block {i} is wrong in round {turn}")
	        blocks[i] = content(i, turn + 1)
	    turn += 1
	    with open(progress, "a") as f:
	        f.write("x")
	h = hashlib.blake2b()
	for b in blocks:
	    h.update(b.replace(b" %06d " % turn, b" ended  "))
	print(h.hexdigest())
END

rounds() { stat -c %s "$tmp/progress" 2>/dev/null || echo 0; }
more_than() { [ "$(rounds)" -gt "$1" ] || ! kill -0 "$program" 2>/dev/null; }
# goes_on WHAT: two more rounds are finished, so that at least one was begun after what happened
goes_on() {
	local n
	n=$(rounds)
	check "$1: goes on" retry 100 more_than $((n + 1))
	check "$1: lives" kill -0 "$program"
}

# errors: operations on the program's links that have failed so far
errors() {
	"$XMEM_BUILD/xmem-top" --once --json |
		python3 -c 'import json, sys; print(json.load(sys.stdin)["family"]["total"]["link_errors"])'
}
more_errors_than() { [ "$(errors)" -gt "$1" ]; }

# cut_off: what is sent to the other node goes astray, until operations have failed of it. (A rule that leads nowhere did
# not stop the packets of soft-RoCE on Linux 6.1.)
cut_off() {
	local n netdev
	n=$(errors)
	netdev=$(ip -o route get "$XMEM_RDMA_PEER" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
	ip neigh replace "$XMEM_RDMA_PEER" dev "$netdev" lladdr 02:00:00:00:00:fe nud permanent
	check "operations fail (more than $n)" retry 20 more_errors_than "$n"
	ip neigh del "$XMEM_RDMA_PEER" dev "$netdev"
}

await_node0
before=$(resources)
echo >"$tmp/stop"
python3 "$tmp/rounds.py" /dev/null "$tmp/stop" >"$tmp/plain"
rm "$tmp/stop"
"$XMEM_BUILD/xmem-run" --local 6M --lost-timeout 30s --log-level info --stats="$tmp/loss.json" --appliance "verbs:$XMEM_RDMA_PEER:$XMEM_RDMA_PORT" -- \
	python3 "$tmp/rounds.py" "$tmp/progress" "$tmp/stop" >"$tmp/out" 2>"$tmp/err" &
program=$!
goes_on "start"
check "node 0 stands still" pause_node 0 4000
goes_on "pause"
for cut in 1 2; do
	cut_off
	goes_on "cut $cut"
done
echo >"$tmp/stop"
wait "$program"
check "status $? is 0" [ $? = 0 ]
cat "$tmp/err"
check "output" cmp "$tmp/out" "$tmp/plain"
check "travelled" travelled "$tmp/loss.json" 16
check "connections were lost, and made anew" reconnected "$tmp/loss.json" 2
cat "$tmp/check.out"
unchanged "resources" "$before"
finish
