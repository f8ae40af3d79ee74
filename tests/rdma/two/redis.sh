#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 400 s
# redis.sh - redis-server with most of its memory on the other node: the file that a forked child saves while writes go
# on has the digest of the moment of the fork.
. "$(dirname "$0")/../lib.sh"
need redis-server redis-cli rdma
options=(--bind 127.0.0.1 --dir "$tmp" --dbfilename dump.rdb --save "" --enable-debug-command yes --appendonly no)

redis() { timeout 150 redis-cli -p "$port" "$@"; }
up() { [ "$(redis ping 2>&1)" = PONG ]; }
saved() { [ "$(redis info persistence | tr -d '\r' | grep -E '^rdb_(bgsave_in_progress:0|last_bgsave_status:ok)' -c)" = 2 ]; }

await_node0
before=$(resources)
port=7391
"$XMEM_BUILD/xmem-run" --local 12M --stats="$tmp/redis.json" --appliance "verbs:$XMEM_RDMA_PEER:$XMEM_RDMA_PORT" -- \
	redis-server --port $port "${options[@]}" >"$tmp/server.out" 2>&1 &
server=$!
check "starts" retry 60 up
check "fill" redis debug populate 8200 key 4000
check "pause" redis client pause 60000 write
digest=$(redis debug digest)
check "fork" redis bgsave
redis client unpause >/dev/null
for i in $(seq 1 40); do
	echo "set key:$((i * 200)) 'changed $i'"
done | redis >/dev/null
check "saved" retry 120 saved
check "went on" [ "$(redis get key:200)" = "changed 1" ]
redis shutdown nosave >/dev/null 2>&1
check "ends" wait "$server"
[ "$failed" = 0 ] || tail -n 20 "$tmp/server.out"
check "travelled" travelled "$tmp/redis.json" 12

port=7392
redis-server --port $port "${options[@]}" >"$tmp/plain.out" 2>&1 &
children+=($!)
check "an ordinary server loads it" retry 60 up
check "digest of the fork" [ "$(redis debug digest)" = "$digest" ]
unchanged "resources" "$before"
finish
