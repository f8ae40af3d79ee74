#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# count.sh - what a fault costs: for each page that comes alone one RDMA READ work request and its doorbell, no send, no
# receive, no registration, and no system call that is not the fault's own (calls.py says which); for pages that come
# together one doorbell. Counted three times: by xmem itself, by the device, and from the outside.
. "$(dirname "$0")/lib.sh"
need python3 strace rdma
ulimit -l unlimited

# The pages are filled, and read once in order, so that all of them have a clean copy on the appliance. Then, for each
# line that comes: random N touches N pages, order N goes round in order.
cat >"$tmp/touch.py" <<-END
	import mmap, random, sys
	n = 5120
	m = mmap.mmap(-1, n * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
	for i in range(n):
	    m[i * 4096:i * 4096 + 8] = b"%08d" % i
	def look(i):
	    if m[i * 4096:i * 4096 + 8] != b"%08d" % i:
	        sys.exit(f"page {i} has {m[i * 4096:i * 4096 + 8]}")
	for i in range(n):
	    look(i)
	print("ready", flush=True)
	r = random.Random(5)
	for line in sys.stdin:
	    how, count = line.split()
	    for k in range(int(count)):
	        look(r.randrange(n) if how == "random" else k % n)
	    print("done", flush=True)
END

# touching NAME OPTION...: starts the program in the background; answer waits for its next line, ask sends one
touching() {
	local name=$1
	shift
	mkfifo "$tmp/$name.in" "$tmp/$name.out"
	"$XMEM_BUILD/xmem-run" --local 8M --stats="$tmp/$name.json" --appliance "$uri" "$@" -- \
		python3 "$tmp/touch.py" <"$tmp/$name.in" >"$tmp/$name.out" 2>"$tmp/$name.err" &
	runner=$!
	exec 8>"$tmp/$name.in" 7<"$tmp/$name.out"
	check "$name: starts" answer ready
}
answer() {
	local line
	read -r -t 100 line <&7 && [ "$line" = "$1" ]
}
ask() {
	echo "$@" >&8
	answer "done"
}
# ends NAME: its statistics are there then
ends() {
	exec 8>&-
	check "$1: ends" wait "$runner"
	exec 7<&-
	[ ! -s "$tmp/$1.err" ] || cat "$tmp/$1.err"
}

# sends: SEND messages that the device has carried, and received; the connection manager's own among them
sends() { rdma statistic show link "$XMEM_RDMA_DEV/1" | grep -o 'rdma_sends [0-9]*\|rdma_recvs [0-9]*' | xargs; }

# holds NAME EXPRESSION: over the counters of NAME's statistics
holds() {
	python3 - "$tmp/$1.json" "$2" <<-END
		import json, sys
		total = json.load(open(sys.argv[1]))["family"]["total"]
		print({k: v for k, v in total.items() if k.startswith("link_") or k in sys.argv[2]})
		sys.exit(not eval(sys.argv[2], total))
	END
}

attached() { grep -q attached "$tmp/strace.err"; }

before=$(resources)
listen_here --memory 96M --slab 16M

# pages that come alone
touching alone --prefetch none
sent=$(sends)
check "many faults" ask random 1000
if [ -n "$sent" ]; then
	check "sends are counted: the connection manager's" [ "$sent" != "rdma_sends 0 rdma_recvs 0" ]
	check "no send, no receive" [ "$(sends)" = "$sent" ]
else
	echo "this device does not count SEND messages: not looked at"
fi
pid=$(pgrep -f "python3 $tmp/touch.py" | tail -n 1)
strace -f -x -yy -s 4 --decode-pids=comm -o "$tmp/trace" -p "$pid" 2>"$tmp/strace.err" &
tracer=$!
check "strace" retry 30 attached
check "faults under strace" ask random 400
kill -INT "$tracer"
wait "$tracer"
check "system calls" python3 "$(dirname "$0")/calls.py" "$tmp/trace" 200
cat "$tmp/check.out"
ends alone
check "pages came alone" holds alone 'fetched_pages == faults_fetch > 4000 and prefetched_pages == 0'
check "one read a fault" holds alone 'link_reads == faults_fetch and link_errors == 0'
check "one work request an operation" holds alone 'link_work_requests == link_reads + link_writes'
check "registered once, not for faults" holds alone '0 < link_registrations < 20 < faults_fetch // 100'
check "a doorbell a fault, and one for each batch that left" holds alone \
	'link_reads <= link_doorbells <= faults_fetch + evict_ns["count"]'

# pages that come together: a batch is the page that is wanted, what is prefetched with it, one doorbell
touching together --prefetch stride
check "in order" ask order 10240
ends together
check "batches came" holds together 'fetched_pages > 4 * faults_fetch'
check "a doorbell a batch" holds together \
	'link_doorbells <= faults_fetch + evict_ns["count"] and link_work_requests > link_doorbells and link_errors == 0'
kill "$appliance"
unchanged "resources" "$before"
finish
