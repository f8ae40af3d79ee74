#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 600 s
# programs.sh - ordinary programs at a quarter of their memory, the rest of it on the other node, reached over IPv4 and
# over IPv6 (which of them tools/check-rdma sees in the packets).
. "$(dirname "$0")/../lib.sh"
need sort python3 rdma

# each block is written, and read twice in another order
cat >"$tmp/blocks.py" <<-END
	import hashlib
	blocks = [bytes([i % 251]) * 65536 + i.to_bytes(4, "little") for i in range(700)]
	for step in (3, 11):
	    h = hashlib.blake2b()
	    for i in range(700):
	        h.update(blocks[i * step % 700])
	    print(h.hexdigest())
END
seq 1 400000 | awk '{ print ($1 * 7919) % 1000003, $1 }' >"$tmp/lines"

await_node0
before=$(resources)
on_appliance python 12 48 python3 "$tmp/blocks.py"
address=${XMEM_RDMA_PEER6:+"[$XMEM_RDMA_PEER6]"} on_appliance sort 10 40 sort --parallel=1 -S 64M "$tmp/lines"
unchanged "resources" "$before"
finish
