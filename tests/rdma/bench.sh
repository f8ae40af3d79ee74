#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# time limit: 240 s
# bench.sh - `make bench VERBS=...` runs: with little memory and one round, on an appliance and perftest's server of this
# machine. What it prints and writes is whole and agrees with itself; how fast is not looked at.
. "$(dirname "$0")/lib.sh"
need rdma ib_read_lat taskset python3
bench=tests/bench/run
ulimit -l unlimited
export XMEM_BENCH_OUT=$tmp/out XMEM_BENCH_SMALL=1

# lacks WHAT COMMAND...: it says so, in one line, and fails
lacks() {
	local what=$1 said rc
	shift
	said=$("$@" 2>&1)
	rc=$?
	echo "$said"
	[ $rc = 1 ] && [ "$(grep -c "not measured: $what" <<<"$said")" = 1 ]
}
check "no address" lacks "no appliance" "$bench" verbs
check "no perftest" lacks "ib_read_lat is not installed" env PATH="$tmp" XMEM_BENCH_VERBS=verbs:192.0.2.1:1 \
	"$(command -v python3)" "$bench"

# one client a server, as its users write it
raw_server() {
	trap 'kill $! 2>/dev/null; exit' TERM
	while :; do
		ib_read_lat -R -s 4096 -F &
		wait $!
	done
}
before=$(resources)
start raw_server
start "$XMEM_BUILD/xmem-appliance" --memory 64M --slab 16M --listen "verbs:$XMEM_RDMA_ADDR:0" --ready-fd 3 3>"$tmp/ready"
check "appliance" retry 60 test -s "$tmp/ready"
uri=$(<"$tmp/ready")
check "measured" env XMEM_BENCH_VERBS="$uri" "$bench"
cp "$tmp/check.out" "$tmp/table"
cat "$tmp/table"
check "in the table" grep -Eq '^verbs +fault over RDMA.* [0-9.,]+ x  (met|MISSED)$' "$tmp/table"

agrees() {
	python3 - "$1" <<-END
		import json, statistics, sys
		line, = json.load(open(sys.argv[1]))["lines"]
		f = line["parts"]
		assert line["row"] == "verbs" and line["met"] == (line["value"] <= 1), line
		assert line["value"] == statistics.median(line["rounds"]) > 0, line
		for us, p99, raw, bare, ratio in zip(f["fault_us"], f["fault_p99_us"], f["raw_read_us"], f["bare_fault_us"],
		                                     line["rounds"]):
		    assert 0 < us <= p99 and raw > 0 and bare > 0, f
		    assert abs(ratio - us / (raw + bare + 0.5)) < 1e-9, line
	END
}
check "in the JSON" agrees "$tmp/out/verbs.json"
kill "${children[@]}"
wait
children=()
unchanged "resources" "$before"
finish
