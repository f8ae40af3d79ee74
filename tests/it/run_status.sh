#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
# xmem-run: exit statuses, and what bad input gets: one line and 125, 126 or 127.
. "$(dirname "$0")/librun.sh"

for s in 0 1 42 125 255; do
	try "$run" --local 8M -- sh -c "exit $s"
	check "status $s is the command's" [ "$rc" = $s ]
	check "status $s: nothing is said" [ ! -s "$tmp/err" ]
done

try "$run" --local 8M sh -c 'echo "$0 $*"; cat >&2' a b <<<x
check "arguments and output pass" [ "$(cat "$tmp/out")" = "a b" ]
echo hello | "$run" --local 8M -- cat >"$tmp/out"
check "standard input passes" [ "$(cat "$tmp/out")" = hello ]

for s in TERM SEGV KILL USR1 ABRT; do
	(
		ulimit -c 0
		exec "$run" --local 8M -- sh -c "kill -$s \$\$"
	) 2>/dev/null
	rc=$?
	check "dies by the command's SIG$s" [ "$rc" = $((128 + $(kill -l $s))) ]
done

check_refused "unknown option" 125 "unknown option '--lcal' (did you mean --local?)" "$run" --lcal 5M -- true
check_refused "malformed size" 125 "--local: '12Q' is not a size" "$run" --local 12Q -- true
check_refused "size without a value" 125 "--local: wants a value" "$run" --local
check_refused "negative size" 125 "--local: '-5M' is not a size" "$run" --local=-5M -- true
check_refused "budget below the minimum" 125 "below the minimum of 4 MiB" "$run" --local 4095K -- true
check_refused "unknown option: prefix" 125 "xmem-run: error: unknown option" "$run" --lcal 5M -- true
for z in 0 0% 0.001%; do
	check_refused "budget $z" 125 "--local: " "$run" --local $z -- true
	check "budget $z: says why" grep -q "below the minimum of 4 MiB" "$tmp/err"
	check_refused "--size $z" 125 "--size: " "$run" --size $z -- true
	check "--size $z: says why" grep -q "below the minimum of 4 MiB" "$tmp/err"
done
check_refused "budget above RAM" 125 "more than the memory of this machine" "$run" --local 900T -- true
check_refused "--size below the minimum" 125 "--size" "$run" --local 8M --size 1M -- true
check_refused "--size above all memory" 125 "--size: 900 TiB is more than --local and this machine's memory together" \
	"$run" --local 8M --size 900T -- true
try "$run" --local 8M --size 100% -- true
check "--size 100%" [ "$rc-$(wc -c <"$tmp/err")" = 0-0 ]
check_refused "--handlers 1" 125 "--handlers: '1' is out of range (want 2 to 8)" "$run" --handlers 1 -- true
check_refused "--stall" 125 "out of range (want 0 to 1h)" "$run" --stall 2h -- true
check_refused "unknown policy" 125 "--evict: 'lru' is none of" "$run" --evict lru -- true
check_refused "unknown prefetch" 125 "--prefetch: 'x' is none of" "$run" --prefetch x -- true
check_refused "unknown fault mode" 125 "--fault: 'x' is none of" "$run" --fault x -- true
check_refused "time without unit" 125 "--stall: '5' is not a time" "$run" --stall 5 -- true
check_refused "a feature that is not used" 125 "--mask: 'wp_async' is no feature" "$run" --mask wp_async -- true
check_refused "no feature left" 125 "neither write protection nor MOVE" "$run" --mask wp,move -- true
check_refused "unknown feature" 125 "--mask: 'fly' is no feature" "$run" --mask move,fly -- true
check_refused "bad injection" 125 "--inject: 'x' is not a specification" "$run" --inject x -- true
check_refused "malformed appliance" 125 "--appliance:" "$run" --appliance ftp:there -- true
check_refused "appliance twice" 125 "is named twice" "$run" -a shm:@x -a shm:@x -- true
check_refused "IPv6 without brackets" 125 "write an IPv6 address as tcp:[ADDR]:PORT" "$run" -a tcp:::1 -- true
check_refused "too many appliances" 125 "more than 16 are named: leave some out" \
	"$run" $(printf -- '-a shm:@x%d ' {1..17}) -- true
check_refused "no command" 125 "no command given" "$run" --local 8M
check_refused "no command after --" 125 "no command given" "$run" --local 8M --
check_refused "preload object missing" 125 "no such preload object" env XMEM_PRELOAD=/no/such.so "$run" -- true
check_refused "preload object that is none" 125 \
	"XMEM_PRELOAD: /etc/passwd is no preload object: name libxmem-preload.so" env XMEM_PRELOAD=/etc/passwd "$run" -- true

check_refused "appliance that is not there (shm)" 125 "@xmem-no-such" "$run" -a shm:@xmem-no-such -- true
check_refused "appliance that is not there (tcp)" 125 "127.0.0.1:1" "$run" -a tcp:127.0.0.1:1 -- true
check_refused "appliance path that is not there" 125 "$tmp/none" "$run" -a "shm:$tmp/none" -- true

check_refused "not found" 127 "no-such-command: command not found" "$run" -- no-such-command
check_refused "not found by path" 127 "command not found" "$run" -- /no/such/command
check_refused "not found: empty" 127 "'': command not found" "$run" -- ""
check_refused "a directory" 126 "is a directory" "$run" -- /tmp
echo 'echo I am a script' >"$tmp/script"
chmod 644 "$tmp/script"
check_refused "not executable" 126 "$tmp/script: not executable (chmod +x, or a directory on the way is closed)" "$run" -- "$tmp/script"
chmod 755 "$tmp/script"
try "$run" --local 8M -- "$tmp/script"
check "a script without #! is the shell's" [ "$rc-$(cat "$tmp/out")" = "0-I am a script" ]
printf '#!/no/such/interpreter\n' >"$tmp/bad"
chmod 755 "$tmp/bad"
check_refused "interpreter not found" 127 "/no/such/interpreter" "$run" -- "$tmp/bad"
printf '\177ELF\2\1\1 broken' >"$tmp/elf"
chmod 755 "$tmp/elf"
check_refused "a broken program" 126 "$tmp/elf: no program for this machine" "$run" --local 8M -- "$tmp/elf"

# what an appliance lends is over at the start
mkfifo "$tmp/ready"
exec 9<>"$tmp/ready"
"$appliance" --listen "shm:$tmp/sock" --memory 64M --log-level error --ready-fd 9 &
pid=$!
read -r -t 20 _ <&9
exec 9>&-
mkfifo "$tmp/hold"
"$run" --local 8M -a "shm:$tmp/sock" -- sh -c "echo started; read x <'$tmp/hold'" >"$tmp/started" &
first=$!
timeout 20 tail -f --pid=$first "$tmp/started" 2>/dev/null | grep -q -m1 started
check_refused "appliance out of memory at the start" 125 "no free slab" "$run" --local 8M -a "shm:$tmp/sock" -- true
echo go >"$tmp/hold"
wait $first
check "the first client was not disturbed" [ $? = 0 ]
cd "$tmp" || exit 1
try "$run" --local 8M -a shm:sock -- sh -c 'cd /; exec sh -c "exit 7"'
check "a relative socket path is followed from elsewhere" [ "$rc" = 7 ]
kill $pid
wait $pid
finish
