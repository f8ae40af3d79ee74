#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel: last
# time limit: 300 s
# options.sh - what a verbs address may say of its links: each option has its effect, what cannot be had is refused in one
# line before the command starts; little that may be locked; huge pages for staging, or none; and the statistics tell.
. "$(dirname "$0")/lib.sh"
need rdma python3 setpriv ip
ulimit -l unlimited

# pages leave and come back, in a child too; the last lines say on what staging is
cat >"$tmp/pages.py" <<-END
	import mmap, os, re, sys
	m = mmap.mmap(-1, 10 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
	def check(add):
	    for i in range(0, 10 << 20, 4096):
	        m[i:i + 8] = (i + add).to_bytes(8, "little")
	    for i in range(0, 10 << 20, 4096):
	        if m[i:i + 8] != (i + add).to_bytes(8, "little"):
	            sys.exit("page %d is wrong" % (i // 4096))
	check(1)
	if "fork" in sys.argv:
	    pid = os.fork()
	    if pid == 0:
	        check(2)
	        os._exit(0)
	    if os.waitpid(pid, 0)[1]:
	        sys.exit("the child saw something else")
	    check(3)
	for part in re.split(r"^(?=[0-9a-f]+-)", open("/proc/self/smaps").read(), flags=re.M):
	    if re.search("KernelPageSize: +2048 kB", part):
	        print("huge", re.search(r"Private_Hugetlb: +(\d+)", part).group(1))
	print("right")
END

# the address as a GID of RoCE v2
IFS=. read -r -a octet <<<"$XMEM_RDMA_ADDR"
mapped=$(printf '0000:0000:0000:0000:0000:ffff:%02x%02x:%02x%02x' "${octet[@]}")
ports=/sys/class/infiniband/$XMEM_RDMA_DEV/ports/1
gid=
for i in {0..31}; do
	[ "$(cat "$ports/gids/$i")" = "$mapped" ] && grep -qs v2 "$ports/gid_attrs/types/$i" && gid=$i
done
netdev=$(cat "$ports/gid_attrs/ndevs/0")
[ -n "$gid" ] || { echo "no GID of $XMEM_RDMA_ADDR"; exit 1; }

before=$(resources)
"$XMEM_BUILD/xmem-appliance" --listen "verbs:$XMEM_RDMA_ADDR:0" --memory 96M --slab 16M --ready-fd 3 3>"$tmp/ready" 2>"$tmp/log" &
children+=($!)
ready() { [ -s "$tmp/ready" ]; }
check "appliance" retry 60 ready
port=$(sed 's/.*://' "$tmp/ready")

# run OPTIONS ARGUMENT...: the program with its pages on an address with these options; its status
run() {
	local options=$1
	shift
	timeout 100 "$XMEM_BUILD/xmem-run" --local 8M --stats="$tmp/stats.json" --log-level "${level:-warn}" \
		--appliance "verbs:$XMEM_RDMA_ADDR:$port$options" -- python3 "$tmp/pages.py" "$@" >"$tmp/out" 2>"$tmp/err"
}

shows() {
	run "$@" && grep -qx right "$tmp/out" && return
	cat "$tmp/out" "$tmp/err"
	return 1
}

# stats EXPRESSION: of a, the appliance's figures, and t, the family's
stats() {
	python3 - "$tmp/stats.json" "$1" <<-END
		import json, sys
		j = json.load(open(sys.argv[1]))
		a, t = j["appliances"][0], j["family"]["total"]
		print(a, {k: v for k, v in t.items() if k.startswith("link_")})
		sys.exit(not eval(sys.argv[2]))
	END
}

# refused WORDS OPTIONS: the command does not start, and one line says why
refused() {
	local begin=$SECONDS
	run "$2"
	[ $? = 125 ] && grep -q "$1" "$tmp/err" && [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] &&
		[ $((SECONDS - begin)) -lt 30 ] && return
	cat "$tmp/err" "$tmp/out"
	return 1
}

# ---- options ----

huge=/proc/sys/vm/nr_hugepages
had=$(cat $huge)
echo 0 >$huge
check "automatic, no huge pages" shows "" fork
check "no huge pages: none" eval "! grep huge '$tmp/out'"
check "automatic: statistics" stats "(a['device'], a['port'], a['gid_index'], a['path_mtu_bytes']) == \
	('$XMEM_RDMA_DEV', 1, $gid, 4096) and a['gid'].endswith('$XMEM_RDMA_ADDR')"
check "counters" stats "t['link_work_requests'] >= t['link_reads'] + t['link_writes'] > 20 and \
	0 < t['link_doorbells'] <= t['link_work_requests'] and 0 < t['link_polls'] <= t['link_completions'] and \
	t['link_completions'] == t['link_reads'] + t['link_writes'] and 2 <= t['link_registrations'] <= 24 and \
	a['link']['reads'] == t['link_reads'] and a['link']['errors'] == 0 and a['device_retries'] is not None"

# from here on there are some, where the machine has the memory
echo 8 >$huge
level=debug check "all options" shows ",device=$XMEM_RDMA_DEV,port=1,gid=$gid,mtu=1024,ack-timeout=100ms,retries=5,depth=20,reads=4,numa=0,huge=no"
check "all options: statistics" stats "(a['device'], a['gid_index'], a['path_mtu_bytes']) == ('$XMEM_RDMA_DEV', $gid, 1024)"
check "all options: in effect" grep -q "GID $gid, path MTU 1024, 4 reads at once, an acknowledgement is waited for 134217 us 6 times" "$tmp/err"
check "all options: no huge pages" eval "! grep huge '$tmp/out'"
check "other end of the ranges, huge pages" shows ",device=$XMEM_RDMA_DEV,mtu=256,depth=4096,reads=1,retries=0" fork
check "other end: statistics" stats "a['path_mtu_bytes'] == 256"
if [ "$(cat $huge)" -ge 3 ]; then
	check "huge pages: staging is on one" grep -qx "huge 2048" "$tmp/out"
	free() { [ "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)" = "$(cat $huge)" ]; }
	check "huge pages are given back" retry 10 free
else
	echo "this machine has no memory for huge pages: not tried"
fi
echo "$had" >$huge

check "no such device" refused "there is no RDMA device 'mlx5_7' (there are: $XMEM_RDMA_DEV" ",device=mlx5_7"
check "no such port" refused "$XMEM_RDMA_DEV has no port 2" ",device=$XMEM_RDMA_DEV,port=2"
check "no such GID" refused "port 1 of $XMEM_RDMA_DEV has no GID 999" ",device=$XMEM_RDMA_DEV,gid=999"
check "GID of the other kind" refused "is no IPv4 address" ",device=$XMEM_RDMA_DEV,gid=0"
check "no such option" refused "'speed=9' in the address: want device=" ",speed=9"
check "listening has none" timeout 20 bash -c "\"$XMEM_BUILD/xmem-appliance\" --listen verbs:$XMEM_RDMA_ADDR:0,mtu=512 --memory 64M 2>&1 |
	grep 'options are for the client'"
check "--check" timeout 60 "$XMEM_BUILD/xmem-run" --check --appliance "verbs:$XMEM_RDMA_ADDR:$port,mtu=512"
cp "$tmp/check.out" "$tmp/checked"
check "--check: device" grep -q "^ok  *RDMA device  *$XMEM_RDMA_DEV port 1 active" "$tmp/checked"
check "--check: path" grep -q "^ok  *RDMA path  *by $XMEM_RDMA_DEV port 1, GID $gid, path MTU 512" "$tmp/checked"
check "--check: locked memory" grep -q "^ok  *locked memory  *unlimited" "$tmp/checked"

# ---- little that may be locked ----

# limited KIB COMMAND...: without the capability that lifts the limit
limited() {
	local kib=$1
	shift
	(
		ulimit -l "$kib" || exit 1
		export -f run refused shows
		export tmp XMEM_BUILD XMEM_RDMA_ADDR port
		exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock bash -c '"$@"' bash "$@"
	)
}
check "8 MiB may be locked" limited 8192 shows ""
check "8 MiB: not a word" [ ! -s "$tmp/err" ]
check "1 MiB may be locked" limited 1024 shows ""
check "1 MiB: one warning" grep -q "the limit of locked memory, 1[.0]* MiB, is too small: ulimit -l 65536 (pages are copied once more)" "$tmp/err"
check "64 KiB may be locked" limited 64 refused "the limit of locked memory, 64[.0]* KiB, is too small: ulimit -l 65536" ""

# ---- the port goes down: in the end, since that may cost the machine's addresses ----

if [ "${RDMA_VM_ADDR:-}" = "$XMEM_RDMA_ADDR" ]; then
	ip link set "$netdev" down
	check "port down" refused "port 1 of $XMEM_RDMA_DEV is DOWN: ip link set $netdev up" ""
	check "port of the device down" refused "port 1 of $XMEM_RDMA_DEV is DOWN: ip link set $netdev up" ",device=$XMEM_RDMA_DEV"
	ip link set "$netdev" up
fi
kill "${children[@]}"
wait
children=()
[ "${RDMA_VM_ADDR:-}" != "$XMEM_RDMA_ADDR" ] || renew_device
unchanged "resources" "$before"
finish
