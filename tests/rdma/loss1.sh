#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# loss1.sh - what does not go on, ends in bounded time and leaves nothing: a program whose appliance is killed gets
# SIGBUS, with the reason on stderr; what a client held that is killed in the middle of its transfers comes back to the
# appliance, and the device holds none of it.
. "$(dirname "$0")/lib.sh"
need python3 rdma
ulimit -l unlimited

# goes round over 16 MiB for ever; says each round
cat >"$tmp/busy.py" <<-END
	import mmap
	n = 4096
	m = mmap.mmap(-1, n * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
	k = 0
	while True:
	    for i in range(n):
	        if k and m[i * 4096:i * 4096 + 8] != b"%08d" % (i + k - 1):
	            print("wrong", flush=True)
	        m[i * 4096:i * 4096 + 8] = b"%08d" % (i + k)
	    k += 1
	    print("round", flush=True)
END

# busy: starts it, in a session of its own ($client is its leader's pid); it is in the middle of its second round then
busy() {
	: >"$tmp/busy.out"
	setsid "$XMEM_BUILD/xmem-run" --local 5M --lost-timeout 3s --appliance "$uri" -- python3 "$tmp/busy.py" \
		>"$tmp/busy.out" 2>"$tmp/busy.err" &
	client=$!
	children+=("$client")
	check "a busy program" retry 60 grep -q round "$tmp/busy.out"
	holds=$(used)
	check "it holds memory: $holds" [ "${holds%% *}" -gt 0 ]
}

# used: slabs and other sessions that the appliance has
used() {
	PYTHONPATH=tests/it python3 - "tcp:${uri#verbs:}" <<-END
		import sys, lib_xmem
		client = lib_xmem.Client(sys.argv[1])
		st = client.stat()
		client.leave()
		print(st["slabs_used"], st["sessions"] - 1)
	END
}
unused() { [ "$(used)" = "0 0" ]; }
ended() { ! kill -0 "$client" 2>/dev/null; }

untouched=$(resources)
listen_here --memory 96M --slab 16M --lease 2s
check "a first client" retry 60 "$XMEM_BUILD/xmem-run" --local 8M --appliance "$uri" -- true # the appliance keeps what it needed for it
before=$(resources)

for round in 1 2; do
	busy
	kill -KILL -- "-$client" # the program, xmem-run and what it has started
	wait "$client" 2>/dev/null
	check "killed client $round: memory" retry 20 unused
	unchanged "killed client $round: resources" "$before"
done

busy
kill -KILL "$appliance"
since=$EPOCHREALTIME
check "ends" retry 20 ended
wait "$client"
status=$?
ms=$(awk -v a="$since" -v b="$EPOCHREALTIME" 'BEGIN { printf "%d", (b - a) * 1000 }')
echo "SIGBUS after $ms ms: $(tail -n 1 "$tmp/busy.err")"
check "killed appliance: SIGBUS" [ $status = $((128 + $(kill -l BUS))) ]
check "killed appliance: in time" [ "$ms" -lt 12000 ]
check "killed appliance: the reason" grep -q "$uri.*lost" "$tmp/busy.err"
check "no wrong page" eval "! grep -q wrong $tmp/busy.out"
unchanged "killed appliance: resources" "$untouched"
finish
