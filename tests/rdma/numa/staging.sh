#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# staging.sh - slabs of an appliance with --numa and the buffers of a client with numa= are on the node that was asked for,
# with huge pages and without.
. "$(dirname "$0")/../lib.sh"
need python3
ulimit -l unlimited

# pages leave and come back, then what the kernel says of memory for which a node is preferred (buffers of links), and of
# the appliance's slabs
cat >"$tmp/pages.py" <<-END
	import mmap, sys
	m = mmap.mmap(-1, 6 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
	for step in (1, 2):
	    for i in range(0, 6 << 20, 4096):
	        m[i] = m[i] + 1
	print("".join(l for l in open("/proc/self/numa_maps") if " prefer" in l))
	print("".join(l for l in open("/proc/%s/numa_maps" % sys.argv[1]) if "memfd:" in l))
END

# on_node NODE WORDS FILE: lines of numa_maps with these words name pages of this node only, and there are some
on_node() {
	cat "$3"
	grep -e "$2" "$3" | grep -o ' N[0-9]*=' | sort -u >"$tmp/nodes"
	[ "$(cat "$tmp/nodes")" = " N$1=" ]
}

for node in 0 1; do
	: >"$tmp/ready"
	"$XMEM_BUILD/xmem-appliance" --listen "verbs:$XMEM_RDMA_ADDR:0" --memory 32M --slab 8M --numa $node --ready-fd 3 \
		3>"$tmp/ready" 2>"$tmp/log" &
	children=($!)
	ready() { [ -s "$tmp/ready" ]; }
	check "appliance on node $node" retry 60 ready
	for huge in 0 4; do
		echo $huge >/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
		check "client on node $node" timeout 60 "$XMEM_BUILD/xmem-run" --local 4M \
			--appliance "verbs:$XMEM_RDMA_ADDR:$(sed 's/.*://' "$tmp/ready"),numa=$node" -- \
			python3 "$tmp/pages.py" "${children[0]}"
		cp "$tmp/check.out" "$tmp/client"
		check "buffers on node $node" on_node $node "prefer[^ ]*:$node " "$tmp/client"
		check "huge pages: $huge" [ "$(grep -c ' huge ' "$tmp/client")" = $((huge > 0)) ]
		check "slabs on node $node" on_node $node "memfd" "$tmp/client"
	done
	echo 0 >/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
	kill "${children[0]}"
	wait
done
children=()
finish
