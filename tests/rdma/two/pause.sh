#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# pause.sh - another node can be made to stand still for a while: it is silent in between, and goes on after.
. "$(dirname "$0")/../lib.sh"
need rping
[ -n "${RDMA_VM_REQ:-}" ] || skip "stops another machine: only in guests"

answers() { ping -c 1 -W 1 "$XMEM_RDMA_PEER" >/dev/null 2>&1; }
command -v ping >/dev/null || ping() { busybox ping "$@"; }

check "answers" retry 30 answers
start=$EPOCHREALTIME
check "pause" pause_node 0 3000
check "is silent" eval '! answers'
check "answers again" retry 30 answers
silent_ms=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%d", (b - a) * 1000 }')
echo "no answer for $silent_ms ms"
check "not before the time" [ "$silent_ms" -ge 2900 ]
check "rdma_cm" retry 30 rdma_ping "$XMEM_RDMA_PEER" "$XMEM_RDMA_PING" 5
finish
