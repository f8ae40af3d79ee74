#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# stress.sh - the stress program against its mirror, its pages on the other node; then, with connections cut.
. "$(dirname "$0")/../lib.sh"
need rdma
ulimit -l unlimited
stress=("$XMEM_BUILD/tests/stress/stress" --uri "verbs:$XMEM_RDMA_PEER:$XMEM_RDMA_PORT" --local 6 --threads 2)

before=$(resources)
check "mirror" timeout 120 "${stress[@]}" --seconds 20 --no-fork
cat "$tmp/check.out"
check "disconnects" timeout 120 "${stress[@]}" --seconds 20 --no-fork --inject disconnect=0.002
cat "$tmp/check.out"
unchanged "resources" "$before"
finish
