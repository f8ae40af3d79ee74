#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nodes.sh - the guest with two NUMA nodes has processors and memory in both.
. "$(dirname "$0")/../lib.sh"
need numactl

check "two nodes" [ "$(cat /sys/devices/system/node/online)" = 0-1 ]
for n in 0 1; do
	check "processors of node $n" [ -n "$(cat /sys/devices/system/node/node$n/cpulist)" ]
	check "memory of node $n" numactl --membind=$n --cpunodebind=$n dd if=/dev/zero of=/dev/null bs=16M count=1
done
finish
