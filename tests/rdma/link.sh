#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 400 s
# link.sh - the contract of links over verbs, by the programs that test it over shm and tcp, and fork; what they held of
# the device is given back.
. "$(dirname "$0")/lib.sh"
need rdma
ulimit -l unlimited
export RIG_DEBUG=1 # what the appliance said is shown when a test fails

before=$(resources)
check "contract" "$XMEM_BUILD/tests/unit/test_link"
check "loss" "$XMEM_BUILD/tests/unit/test_link_loss"
check "fork" "$XMEM_BUILD/tests/unit/test_fork_runtime"
unchanged "resources" "$before"
finish
