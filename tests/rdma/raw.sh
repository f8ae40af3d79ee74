#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 300 s
# time limit, all: 2400 s
# raw.sh - an appliance on a verbs device and clients without manners (tests/it/rdma_raw.c, rdma_share.c). Runs in a machine with an
# RDMA device, as root (`rdma res` names its objects).
#
#   XMEM_BUILD=build/release tests/rdma/raw.sh ADDRESS
set -u
build=${XMEM_BUILD:-build/release}
addr=${1:-${XMEM_RDMA_ADDR:?address of an RDMA device}}
appliance=$build/xmem-appliance
tmp=$(mktemp -d)
failed=0

fail() { echo "FAILED: $*"; failed=1; }

# listening: starts an appliance with these options; $pid, $port
listening() {
	: >"$tmp/ready"
	"$appliance" --ready-fd 3 "$@" 3>"$tmp/ready" 2>"$tmp/log" &
	pid=$!
	for _ in $(seq 300); do
		[ -s "$tmp/ready" ] && break
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	port=$(sed 's/.*://' "$tmp/ready")
}

# no device at this address: one line, status 1
timeout 20 "$build/xmem-appliance" --listen verbs:203.0.113.9:0 --memory 8M --slab 1M 2>"$tmp/none"
[ $? = 1 ] && grep -q 'no RDMA device serves' "$tmp/none" && [ "$(wc -l <"$tmp/none")" = 1 ] ||
	{ fail "an address without a device"; cat "$tmp/none"; }

rdma res | sed 's/^/before: /'
listening --listen "verbs:$addr:0" --memory 8M --slab 1M --warm 2 --log-level debug --lease 2s
grep -q "^verbs:$addr:" "$tmp/ready" || fail "the address: $(cat "$tmp/ready")"
"$build/tests/it/rdma_raw" "$addr" "$port" || fail "rdma_raw"
"$build/tests/it/rdma_share" "$addr" "$port" || fail "rdma_share"
kill "$pid"
wait "$pid" || fail "the appliance ended with status $?"
sed 's/session [0-9]*/session N/; s/[0-9]* slabs\? freed/n slabs freed/' "$tmp/log" | sort | uniq -c | sort -rn | head -40 | sed 's/^/log: /'
rdma res | sed 's/^/after: /'

# little may be locked: a warning at the start, and keys are refused, not given
cat >"$tmp/limited" <<END
#!/bin/sh
ulimit -l 3072
exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock "$(realpath "$build")/xmem-appliance" "\$@"
END
chmod +x "$tmp/limited"
appliance=$tmp/limited
listening --listen "verbs:$addr:0" --memory 8M --slab 1M
grep -q 'ulimit -l' "$tmp/log" || fail "no warning about locked memory: $(cat "$tmp/log")"
"$build/tests/it/rdma_raw" "$addr" "$port" locked || fail "rdma_raw locked"
sed 's/^/log: /' "$tmp/log"
kill "$pid"
wait "$pid" || fail "the limited appliance ended with status $?"
rm -rf "$tmp"
[ $failed = 0 ] && echo "raw.sh: all held"
exit $failed
