#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# time limit: 400 s
# peers.sh - what xmem-run says when there is no way to an appliance over RDMA, or what answers is none: one line, status
# 125, in bounded time, before the command starts; nothing is left on the device.
#
# The control connection is TCP's, so it goes to an appliance that listens on tcp: only; at the same port tests/it/rdma_peer
# listens for RDMA.
. "$(dirname "$0")/lib.sh"
need python3 rdma ip
ulimit -l unlimited

# refused WHAT URI PATTERN: the line that is said has this in it
refused() {
	local what=$1 status lines start=$EPOCHREALTIME ms
	timeout 60 "$XMEM_BUILD/xmem-run" --local 8M --appliance "$2" -- touch "$tmp/started" >"$tmp/said" 2>&1
	status=$?
	ms=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%d", (b - a) * 1000 }')
	lines=$(wc -l <"$tmp/said")
	echo "$what: status $status after $ms ms: $(cat "$tmp/said")"
	check "$what: status 125, not $status" [ "$status" = 125 ]
	check "$what: one line, not $lines" [ "$lines" = 1 ]
	check "$what: says why" grep -q "$3" "$tmp/said"
	check "$what: in time" [ "$ms" -lt 30000 ]
	check "$what: no command" [ ! -e "$tmp/started" ]
}

# with MODE PATTERN: rdma_peer behaves like this
with() {
	local peer
	"$XMEM_BUILD/tests/it/rdma_peer" "$XMEM_RDMA_ADDR" "$port" "$1" >"$tmp/peer.out" 2>&1 &
	peer=$!
	children+=("$peer")
	check "$1: a peer" retry 30 grep -q listening "$tmp/peer.out"
	refused "$1" "verbs:$XMEM_RDMA_ADDR:$port" "$2"
	check "$1: was asked" grep -q asked "$tmp/peer.out"
	kill "$peer"
	wait "$peer" 2>/dev/null
	unchanged "$1: resources" "$untouched"
}

untouched=$(resources)
scheme=tcp listen_here --memory 64M --slab 16M
port=${uri##*:}
refused "nobody for RDMA" "verbs:$XMEM_RDMA_ADDR:$port" "nobody listens there for RDMA"
with silent "no answer over RDMA in time"
with garbage "what answers over RDMA is no xmem appliance"
with bare "what answers over RDMA is no xmem appliance"
with reject "what answers over RDMA is no xmem appliance"
with version "another protocol version"
with hangup "its memory cannot be read over RDMA"

# the control connection is closed at once
python3 - "$XMEM_RDMA_ADDR" "$tmp/closer" <<-END &
	import socket, sys
	s = socket.create_server((sys.argv[1], 0))
	with open(sys.argv[2], "w") as f:
	    print(s.getsockname()[1], file=f)
	while True:
	    s.accept()[0].close()
END
children+=($!)
check "a closer" retry 30 [ -s "$tmp/closer" ]
refused "control closed" "verbs:$XMEM_RDMA_ADDR:$(cat "$tmp/closer")" "during hello"
refused "nobody" "verbs:$XMEM_RDMA_ADDR:1" "nobody listens there"
unchanged "resources" "$untouched"

if [ -n "${RDMA_VM:-}" ]; then
	"$XMEM_BUILD/xmem-appliance" --listen tcp:127.0.0.1:"$port" --memory 64M --slab 16M >"$tmp/local.log" 2>&1 &
	children+=($!)
	check "an appliance where there is no device" retry 30 eval "exec 9<>/dev/tcp/127.0.0.1/$port"
	refused "no device at the address" "verbs:127.0.0.1:$port" "no RDMA device reaches that address"
	netdev=$(rdma link show "$XMEM_RDMA_DEV/1" | sed -n 's/.* netdev \([^ ]*\).*/\1/p')
	ip link set "$netdev" down
	refused "port down" "verbs:$XMEM_RDMA_ADDR:$port" "port 1 of $XMEM_RDMA_DEV is .*ip link set $netdev up"
	ip link set "$netdev" up
	unchanged "resources" "$untouched"
	renew_device refused "no device" "verbs:$XMEM_RDMA_ADDR:$port" "no RDMA device reaches that address"
fi
finish
