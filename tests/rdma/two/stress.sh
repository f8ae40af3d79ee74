#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 400 s
# stress.sh - the stress program against its mirror, its pages on the other node, with forks; then, with connections cut.
. "$(dirname "$0")/../lib.sh"
need rdma
stress=("$XMEM_BUILD/tests/stress/stress" --uri "verbs:$XMEM_RDMA_PEER:$XMEM_RDMA_PORT" --local 6 --threads 2 --watch 120)

await_node0
before=$(resources)
check "mirror" timeout 150 "${stress[@]}" --seconds 15
cat "$tmp/check.out"
check "disconnects" timeout 150 "${stress[@]}" --seconds 15 --no-fork --inject disconnect=0.002
cat "$tmp/check.out"
unchanged "resources" "$before"
finish
