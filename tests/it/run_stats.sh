#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
# xmem-run --stats in its forms, and xmem-top's plain output.
. "$(dirname "$0")/librun.sh"

# 48 MiB of incompressible data at a budget of 16 MiB, read twice
work='import os, sys
a = [os.urandom(65536) for i in range(768)]
s = sum(x[17] for x in a) + sum(x[9] for x in reversed(a))
print("done", flush=True)
if len(sys.argv) > 1: open(sys.argv[1]).read()'

try "$run" --local 16M --stats -- python3 -c "$work"
check "the command's status" [ "$rc" = 0 ]
check "the command's output is its own" [ "$(cat "$tmp/out")" = done ]
for line in 'xmem: python3: exit status 0 after' 'local memory      16 MiB budget, peak' 'external memory   peak' \
	'coverage          [0-9]' 'processes         [0-9]' 'faults handled in .*p50 .*p99 .*max' 'time of faults  .*total' 'install   .*%' 'rest   .*%' 'together  .*100%.*a fault' 'fetched   ' 'first touch' \
	'evicted           [1-9]' 'reclaim   ' 'errors            none' 'appliance         shm:@'; do
	check "the block has '$line'" grep -qE "$line" "$tmp/err"
done
check "lines fit" [ "$(awk 'length > m { m = length } END { print m }' "$tmp/err")" -le 100 ]

try "$run" --local 16M --stats="$tmp/s.txt" -- true
check "--stats=FILE: text" grep -q 'xmem: true: exit status 0' "$tmp/s.txt"
check "--stats=FILE: nothing on stderr" [ ! -s "$tmp/err" ]
check_refused "--stats=FILE that cannot be written" 125 \
	"--stats: /no/such/dir/x: No such file or directory: name a file in an existing directory" \
	"$run" --local 16M --stats=/no/such/dir/x -- touch "$tmp/ran"
check "--stats=FILE that cannot be written: before the command" [ ! -e "$tmp/ran" ]
check_refused "--stats=FILE that is a directory" 125 "--stats: /tmp: Is a directory" "$run" --stats=/tmp -- true
check_refused "XMEM_STATS_JSON that is no .json" 125 "does not end in .json" \
	env XMEM_STATS_JSON="$tmp/b" "$run" --stats -- true

# where mappings of at least 4K are external (a small one starts no runtime)
small='import ctypes, mmap
x = bytearray(8 << 20)
m = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(0x200000000000 <= ctypes.addressof(ctypes.c_char.from_buffer(m)) < 0x210000000000)'
try "$run" --local 16M --min-map 4K -- python3 -c "$small"
check "--min-map 4K: a mapping of 8K is external" [ "$(cat "$tmp/out")" = True ]
try "$run" --local 16M --min-map 12K -- python3 -c "$small"
check "--min-map 12K: it is not" [ "$(cat "$tmp/out")" = False ]

XMEM_STATS_JSON=$tmp/b.json try "$run" --local 16M --stats="$tmp/a.json" -- python3 -c "$work"
check "both JSON files" [ -s "$tmp/a.json" -a -s "$tmp/b.json" ]
check "what JSON says" python3 - "$tmp/a.json" <<'PY'
import json, sys
j = json.load(open(sys.argv[1]))
f, t = j["family"], j["family"]["total"]
assert j["run"]["command"] == "python3" and j["run"]["exit_status"] == 0, j["run"]
assert f["budget_pages"] == 4096 and f["processes"] >= 1
assert f["external_pages_max"] >= 48 * 256, f["external_pages_max"]
assert t["evicted_dirty_pages"] > 0 and t["written_bytes"] >= t["evicted_dirty_pages"] * 4096
assert t["faults_fetch"] > 0 and t["fetch_ns"]["count"] > 0
assert t["fetch_ns"]["p50"] <= t["fetch_ns"]["p99"] <= t["fetch_ns"]["p999"] <= t["fetch_ns"]["max"]
parts = {k: t[f"part_{k}_ns"] for k in ("delivery", "wait", "fetch", "install", "rest", "return")}
faults = sum(t["faults_" + k] for k in ("fetch", "zero", "write", "wait", "spurious", "bad"))
assert 0.99 * faults <= parts["rest"]["count"] <= 1.01 * faults, (faults, parts)
assert parts["fetch"]["count"] == 0, parts  # shm
assert 0 < parts["install"]["count"] <= t["install_calls"] / 256, parts
assert parts["delivery"]["count"] == parts["return"]["count"], parts
assert t["coverage"] > 0.5, t["coverage"]
assert f["resident_pages"] == 0 and f["committed_pages"] == 0 and f["slots_used"] == 0, f
p = [x for x in j["processes"] if x["comm"].startswith("python3")]
assert p and p[0]["state"] == "ended" and p[0]["stats"]["faults_fetch"] > 0
assert j["appliances"][0]["status"] == 0 and j["appliances"][0]["total_bytes"] > 0
PY

# xmem-top looks at a family that waits
if [ -e "$top" ]; then
	mkfifo "$tmp/hold"
	"$run" --local 16M -- python3 -c "$work" "$tmp/hold" >"$tmp/started" &
	pid=$!
	timeout 60 tail -f --pid=$pid "$tmp/started" 2>/dev/null | grep -q -m1 done
	try "$top" --once --family $pid
	check "xmem-top --once" [ "$rc" = 0 ]
	check "xmem-top --once: the family" grep -q "^xmem-$pid-.* (python3)" "$tmp/out"
	check "xmem-top --once: the block" grep -q 'local memory      16 MiB budget' "$tmp/out"
	try "$top" --json --family $pid
	check "xmem-top --json" python3 -c 'import json,sys; j=json.load(open(sys.argv[1]))
assert j["family"]["processes_live"] == 1 and j["family"]["resident_pages"] > 0' "$tmp/out"
	try "$top" --batch --count 2 --interval 100ms --family $pid
	check "xmem-top --batch: a head and two lines" [ "$(wc -l <"$tmp/out")" = 3 ]
	try "$top" --once --family 1
	check "xmem-top of a family that is not there" grep -qx "xmem-top: .*no family '1' is running.*" "$tmp/err"
	check "xmem-top of a family that is not there: status" [ "$rc" = 1 ]
	for wrong in '--once --count 3' '--once --batch' '--json --batch' '--json -n 3'; do
		try "$top" $wrong
		check "xmem-top $wrong" [ "$rc" = 2 -a "$(wc -l <"$tmp/err")" = 1 ]
	done
	if [ "$(id -u)" = 0 ] && setpriv --reuid=nobody --regid=nogroup --clear-groups test -x "$top"; then
		try setpriv --reuid=nobody --regid=nogroup --clear-groups "$top" --once --family $pid
		check "another user sees nothing" grep -q 'that you may watch' "$tmp/err"
	fi
	echo >"$tmp/hold"
	wait $pid
	check "watching did no harm" [ $? = 0 ]
	# a command that allocates nothing has a name all the same
	"$run" --local 16M -- sleep 60 &
	pid=$!
	rc=1
	for _ in $(seq 200); do
		"$top" --once --family $pid >"$tmp/out" 2>"$tmp/err" && grep -q '(sleep)' "$tmp/out" && rc=0 && break
		sleep 0.05
	done
	check "xmem-top --once: the name of a command without memory: $(head -1 "$tmp/out")" [ "$rc" = 0 ]
	kill $pid
	wait $pid
	try "$top" --bogus
	check "xmem-top: unknown option" [ "$rc" = 2 ]
	try "$top"
	check "xmem-top without a terminal" [ "$rc" = 2 ]
fi
finish
