#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ping.sh - the other node is reached by rdma_cm over both address families.
. "$(dirname "$0")/../lib.sh"
need rping

check "IPv4" retry 30 timeout 20 rping -c -a "$XMEM_RDMA_PEER" -p 7174 -C 10 -S 4096 -V
check "IPv6" retry 30 timeout 20 rping -c -a "$XMEM_RDMA_PEER6" -p 7176 -C 10 -S 4096 -V
finish
