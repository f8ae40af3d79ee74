#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# time limit: 120 s
# on_device.sh - tools/check-rdma on a device of the machine that it runs on: this guest's. Tests of both kinds run, the
# other node is this one, and what cannot be done here is a skip.
. "$(dirname "$0")/lib.sh"
[ -n "${RDMA_VM:-}" ] || skip "tests the tests: only in guests"

BUILD=$tmp RDMA_DEV=$XMEM_RDMA_DEV timeout 100 tools/check-rdma tests/rdma/device.sh tests/rdma/two/ping.sh \
	tests/rdma/two/pause.sh >"$tmp/out" 2>&1
check "status" [ $? = 0 ]
check "a test of one node" grep -q "^ok $XMEM_RDMA_DEV/.*/device.sh" "$tmp/out"
check "a test of two nodes" grep -q "^ok $XMEM_RDMA_DEV/.*/ping.sh" "$tmp/out"
check "what cannot be done" grep -q "^skip $XMEM_RDMA_DEV/.*/pause.sh: stops another machine" "$tmp/out"
check "no more than that" grep -q "^2 passed, 0 failed, 1 skipped" "$tmp/out"
cat "$tmp/out"

RDMA_DEV=none tools/check-rdma tests/rdma/device.sh >"$tmp/out" 2>&1
check "no such device: status" [ $? != 0 ]
check "no such device" grep -q "no RDMA device none" "$tmp/out"
finish
