#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# ping.sh - the other node is reached by rdma_cm over both address families.
. "$(dirname "$0")/../lib.sh"
need rping

check "IPv4" retry 30 rdma_ping "$XMEM_RDMA_PEER" "$XMEM_RDMA_PING" 10
[ -z "$XMEM_RDMA_PEER6" ] || check "IPv6" retry 30 rdma_ping "$XMEM_RDMA_PEER6" "$XMEM_RDMA_PING6" 10
finish
