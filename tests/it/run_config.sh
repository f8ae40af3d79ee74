#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 60 s
# xmem-run: configuration files, and that the command line wins.
. "$(dirname "$0")/librun.sh"

json=$tmp/stats.json
field() {
	python3 -c 'import json,sys; c=json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): c=c[int(k)] if isinstance(c,list) else c[k]
print(c)' "$json" "$1"
}

mkdir -p "$HOME/.config/xmem"
conf=$HOME/.config/xmem/xmem-run.conf
printf 'local = 12M\nevict = clock\nprefetch = none\nmin-map = 1M\nstats = %s\n' "$json" >"$conf"
try "$run" -- true
check "settings of the file are used" [ "$rc" = 0 ]
check "local" [ "$(field config.local_bytes)" = $((12 << 20)) ]
check "evict" [ "$(field config.evict)" = clock ]
check "min-map" [ "$(field config.min_map_bytes)" = $((1 << 20)) ]
try "$run" --local 16M --evict s3fifo -- true
check "the command line wins" [ "$(field config.local_bytes)-$(field config.evict)" = $((16 << 20))-s3fifo ]
check "the rest stays the file's" [ "$(field config.prefetch)" = none ]

echo 'appliance = shm:@xmem-no-such-a' >>"$conf"
check_refused "appliance of the file" 125 "@xmem-no-such-a" "$run" -- true
check_refused "appliance of the command line replaces it" 125 "@xmem-no-such-b" "$run" -a shm:@xmem-no-such-b -- true

echo 'lokal = 5M' >"$conf"
check_refused "unknown key" 125 "$conf:1" "$run" -- true
printf '\nlocal = lots\n' >"$conf"
check_refused "malformed value" 125 "$conf:2" "$run" -- true
echo 'local = 0' >"$conf"
check_refused "zero" 125 "below the minimum of 4 MiB" "$run" -- true
printf '[xmem]\nlocal = 8M\n' >"$conf"
check_refused "a section" 125 "xmem-run: error: $conf:1: sections are not used here" "$run" -- true
echo 'check = yes' >"$conf"
check_refused "an option of the command line only" 125 "$conf:1" "$run" -- true
rm "$conf"
mkdir -p "$tmp/xdg/xmem"
printf 'local = 20M\nstats = %s\n' "$json" >"$tmp/xdg/xmem/xmem-run.conf"
XDG_CONFIG_HOME=$tmp/xdg try "$run" -- true
check "XDG_CONFIG_HOME" [ "$(field config.local_bytes)" = $((20 << 20)) ]
finish
