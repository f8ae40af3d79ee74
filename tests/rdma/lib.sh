# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# lib.sh - what the scripts of this folder share; sourced. They run where a verbs device is (tools/check-rdma):
#   XMEM_RDMA_DEV                     its name
#   XMEM_RDMA_ADDR, XMEM_RDMA_ADDR6   addresses of its network interface; the second may be empty
#   XMEM_RDMA_PEER, XMEM_RDMA_PEER6   in two/: those of the node that node0.sh runs on
#   XMEM_RDMA_PORT                    in two/: where its appliance listens
#   XMEM_RDMA_PING, XMEM_RDMA_PING6   in two/: the ports of rping's servers there
# and get from here $tmp, a directory of their own, and the functions below.
set -uo pipefail
tmp=$(mktemp -d)
children=()
at_exit() {
	[ ${#children[@]} = 0 ] || kill "${children[@]}" 2>/dev/null
	wait
	rm -rf "$tmp"
}
trap at_exit EXIT
failed=0
passed=0

# skip WHY
skip() {
	echo "$1"
	exit 77
}

# need PROGRAM...: a skip where one is not installed
need() {
	local p
	for p; do
		command -v "$p" >/dev/null || skip "$p is not installed"
	done
}

# check WHAT COMMAND...: counts; the output of a command that fails is shown
check() {
	local what=$1
	shift
	if "$@" >"$tmp/check.out" 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $what: $*"
		sed 's/^/    /' "$tmp/check.out"
	fi
}

# retry SECONDS COMMAND...: until it succeeds; false when it did not in this time
retry() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

# rdma_ping ADDRESS PORT COUNT: by rdma_cm, 4 KiB each; rping's own status is 0 even when it gave up
rdma_ping() {
	timeout 20 rping -c -a "$1" -p "$2" -C "$3" -S 4096 -V -v >"$tmp/rping.out" 2>&1
	[ "$(grep -c '^ping data' "$tmp/rping.out")" = "$3" ] && return
	cut -c 1-100 "$tmp/rping.out"
	return 1
}

# start COMMAND...: in the background, until the script ends
start() {
	"$@" >>"$tmp/start.out" 2>&1 &
	children+=($!)
}

# await_node0: until its appliance takes clients; it keeps what it needed for the first one, so this is one
await_node0() {
	ulimit -l unlimited
	check "node 0 is there" retry 60 timeout 60 "$XMEM_BUILD/xmem-run" --local 8M \
		--appliance "verbs:$XMEM_RDMA_PEER:$XMEM_RDMA_PORT" -- true
}

# pause_node NODE MILLISECONDS: stops all processors of another guest, says so, and returns while they stand still
pause_node() {
	local answer
	exec 9<>"$RDMA_VM_REQ"
	echo "pause $1 $2" >&9
	read -r -t 20 answer <&9 || answer="no answer"
	exec 9>&-
	[ "$answer" = paused ] || echo "pause_node $1 $2: $answer"
	[ "$answer" = paused ]
}

# resources: what this machine's verbs device holds, in a form that can be compared
resources() { rdma res show "$XMEM_RDMA_DEV" | sed 's/^[0-9]*: //'; }

# unchanged WHAT BEFORE: what was held is given back, some time after its owners have gone
unchanged() {
	local before=$2
	same() { [ "$(resources)" = "$before" ]; }
	check "$1" retry 30 same
	[ "$(resources)" = "$before" ] || echo "before: $before; now: $(resources)"
}

# listen_here OPTION...: an appliance of the script's own on this machine's address (over $scheme): $uri, $appliance, its pid; what it
# says in $tmp/appliance.log
listen_here() {
	: >"$tmp/ready"
	"$XMEM_BUILD/xmem-appliance" --listen "${scheme:-verbs}:$XMEM_RDMA_ADDR:0" --ready-fd 3 "$@" 3>"$tmp/ready" 2>"$tmp/appliance.log" &
	appliance=$!
	children+=("$appliance")
	listens() { [ -s "$tmp/ready" ] || ! kill -0 "$appliance" 2>/dev/null; }
	retry 60 listens
	uri=$(head -n 1 "$tmp/ready")
	[ -n "$uri" ] || cat "$tmp/appliance.log"
	check "an appliance" [ -n "$uri" ]
}

# on_appliance NAME BUDGET_MIB PEAK_MIB COMMAND...: the program has the output of an ordinary run ($tmp/NAME.plain) when
# its pages are on the other node (reached at $address), and at least half of what is over the budget went there and
# came back
on_appliance() {
	local name=$1 budget=$2 peak=$3
	shift 3
	"$@" >"$tmp/$name.plain" 2>&1
	check "$name" timeout 200 "$XMEM_BUILD/xmem-run" --local "${budget}M" --stats="$tmp/$name.json" \
		--appliance "verbs:${address:-$XMEM_RDMA_PEER}:$XMEM_RDMA_PORT" -- "$@"
	cp "$tmp/check.out" "$tmp/$name.out"
	check "$name: output" cmp "$tmp/$name.out" "$tmp/$name.plain"
	check "$name: travelled" travelled "$tmp/$name.json" $(((peak - budget) / 2))
}

travelled() {
	python3 - "$1" "$2" <<-END
		import json, sys
		t = json.load(open(sys.argv[1]))["family"]["total"]
		out, back, want = t["written_bytes"] >> 20, t["fetched_bytes"] >> 20, int(sys.argv[2])
		print(f"{out} MiB went to the appliance, {back} MiB came back, at least {want} MiB must")
		sys.exit(out < want or back < want)
	END
}

# reconnected FILE N: as often, at the least, a program's links were made anew
reconnected() {
	python3 - "$1" "$2" <<-END
		import json, sys
		t = json.load(open(sys.argv[1]))["family"]["total"]
		print(f"{t['link_reconnects']} reconnects, {t['link_errors']} errors")
		sys.exit(t["link_reconnects"] < int(sys.argv[2]))
	END
}

active() { rdma link show "$XMEM_RDMA_DEV/1" 2>/dev/null | grep -q 'state ACTIVE'; }

# renew_device [COMMAND...]: a guest's soft-RoCE made anew; COMMAND is run while there is none. After its interface was down
# it answers no connection request. Nobody may be using it.
renew_device() {
	local netdev
	netdev=$(rdma link show "$XMEM_RDMA_DEV/1" | sed -n 's/.* netdev \([^ ]*\).*/\1/p')
	rdma link delete "$XMEM_RDMA_DEV"
	"$@"
	ip -6 addr replace "$XMEM_RDMA_ADDR6/64" dev "$netdev" nodad
	rdma link add "$XMEM_RDMA_DEV" type rxe netdev "$netdev"
	check "the device is back" retry 30 active
}

finish() {
	echo "$passed checks passed, $failed failed"
	[ "$failed" = 0 ]
	exit
}
