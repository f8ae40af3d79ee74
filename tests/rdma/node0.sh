#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# node0.sh - what the first of two nodes runs for the tests in two/: an appliance that listens on its verbs device,
# and rping's servers, until it gets SIGTERM. Its status is then the appliance's.
set -uo pipefail
appliance=$XMEM_BUILD/xmem-appliance
port=${XMEM_RDMA_PORT:?}
mine=()
term=
trap 'term=1; kill "${mine[@]}" "${pid:-}" 2>/dev/null' TERM

rping -s -a "$XMEM_RDMA_ADDR" -p "$XMEM_RDMA_PING" -S 4096 -P &
mine+=($!)
listen=(--listen "verbs:$XMEM_RDMA_ADDR:$port")
if [ -n "$XMEM_RDMA_ADDR6" ]; then
	rping -s -a "$XMEM_RDMA_ADDR6" -p "$XMEM_RDMA_PING6" -S 4096 -P &
	mine+=($!)
	listen+=(--listen "verbs:[$XMEM_RDMA_ADDR6]:$port")
fi

echo "node0: $appliance, port $port"
"$appliance" --memory 256M --lease 30s "${listen[@]}" &
pid=$!
wait "$pid"
rc=$?
if [ -n "$term" ]; then # the signal ended only the waiting
	wait "$pid"
	rc=$?
else
	echo "node0: the appliance ended by itself, status $rc"
	while [ -z "$term" ]; do
		sleep 1 &
		wait $!
	done
	[ $rc != 0 ] || rc=1
fi
exit $rc
