#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# device.sh - the verbs device itself: active, and two processes of this machine reach each other by it, with
# and without rdma_cm, over both address families.
. "$(dirname "$0")/lib.sh"
need rdma ibv_devinfo ibv_rc_pingpong rping
dev=$XMEM_RDMA_DEV

check "active" grep -q 'state ACTIVE' <(rdma link show "$dev/1")
if [ -n "${RDMA_VM:-}" ]; then
	check "path MTU" grep -q 'active_mtu:.*4096' <(ibv_devinfo -d "$dev")
fi

# index of the RoCE v2 GID that is this address
gid_of() {
	ibv_devinfo -v -d "$dev" | sed -n "s/.*GID\[ *\([0-9]*\)\]:[[:space:]]*$1, RoCE v2$/\1/p" | head -n 1
}

# pingpong PORT ADDRESS: with verbs alone
pingpong() {
	local args=(-d "$dev" -g "$(gid_of "$2")" -s 8192 -m 1024 -n 20 -p "$1")
	start timeout 60 ibv_rc_pingpong "${args[@]}"
	retry 20 timeout 20 ibv_rc_pingpong "${args[@]}" localhost
}

# ping_by_cm PORT ADDRESS: with rdma_cm
ping_by_cm() {
	start timeout 60 rping -s -a "$2" -p "$1" -S 4096 -P
	retry 20 rdma_ping "$2" "$1" 5
}

check "verbs, IPv4" pingpong 18515 "::ffff:$XMEM_RDMA_ADDR"
check "rdma_cm, IPv4" ping_by_cm 7173 "$XMEM_RDMA_ADDR"
if [ -n "${XMEM_RDMA_ADDR6:-}" ]; then
	check "verbs, IPv6" pingpong 18516 "$XMEM_RDMA_ADDR6"
	check "rdma_cm, IPv6" ping_by_cm 7174 "$XMEM_RDMA_ADDR6"
fi
[ "$failed" = 0 ] || cat "$tmp/start.out"
finish
