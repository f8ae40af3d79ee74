#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 120 s
# The keeper: how long it lives, what it does not hold on to, what it takes back.
. "$(dirname "$0")/librun.sh"

# the keeper and the private appliance of the xmem-run with that pid
keeper_of() {
	local c
	for c in /proc/[0-9]*; do
		if [ "$(cat "$c/comm" 2>/dev/null)" = xmem-keeper ] &&
			tr '\0' '\n' <"$c/cmdline" 2>/dev/null | grep -qF "$1"; then
			basename "$c"
		fi
	done
}
child_of() {
	cat "/proc/$1/task/$1/children" 2>/dev/null
}

# FILE TEXT: waits until FILE has a line with TEXT
await() {
	timeout 30 tail -f -n +1 -s 0.05 "$1" 2>/dev/null | grep -q -m1 -- "$2"
}

mkfifo "$tmp/hold" "$tmp/hold2"

# everything has ended when xmem-run has
: >"$tmp/log"
"$run" --local 8M -- sh -c "echo started; : mark-one; read x <'$tmp/hold'" >"$tmp/log" &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-one)
check "a keeper runs" [ -n "$keeper" ]
appl=$(child_of "$keeper")
check "a private appliance runs below it" [ -n "$appl" ]
check "the keeper is in a session of its own" [ "$(ps -o sid= -p "$keeper" | tr -d ' ')" = "$keeper" ]
check "its standard output is not the command's" [ "$(readlink "/proc/$keeper/fd/1")" = /dev/null ]
echo >"$tmp/hold"
wait $pid
check "ended" [ $? = 0 ]
check "keeper and appliance have ended with xmem-run" [ ! -e "/proc/$keeper" -a ! -e "/proc/${appl% }" ]

# signals of terminals and orderly shutdowns do not end it
: >"$tmp/log"
"$run" --local 8M -- sh -c "echo started; : mark-two; read x <'$tmp/hold'; exit 9" >"$tmp/log" &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-two)
kill -TERM "$keeper"
kill -HUP "$keeper"
kill -INT "$keeper"
echo >"$tmp/hold"
wait $pid
check "the command's status, though the keeper was asked to end" [ $? = 9 ]

# xmem-run is killed: the family goes on, may still start programs, and the keeper ends with it
: >"$tmp/log"
"$run" --local 8M -- sh -c "echo started; : mark-three; read x <'$tmp/hold';
	python3 -c 'b = bytearray(1 << 24); print(\"covered\", len(b), flush=True)'" >"$tmp/log" 2>&1 &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-three)
appl=$(child_of "$keeper")
kill -KILL $pid
wait $pid 2>/dev/null
check "the keeper outlives xmem-run" [ -e "/proc/$keeper" ]
echo >"$tmp/hold"
check "and serves the family" await "$tmp/log" 'covered 16777216'
check "and ends with it" gone "$keeper" "${appl% }"

# a daemon outlives the command: xmem-run ends, its pipes end, the keeper stays until the daemon ends
start=$SECONDS
"$run" --local 8M -- python3 -c "
import os, sys
b = bytearray(1 << 20)
if os.fork() == 0:
    os.setsid()
    n = os.open('/dev/null', os.O_RDWR)
    for fd in range(3): os.dup2(n, fd)
    os.close(n)
    open('$tmp/hold').read()
    open('$tmp/daemon', 'w').write('%d' % sum(b))
    open('$tmp/hold2', 'w').write('x')
    os._exit(0)
print('parent mark-four')
" 2>&1 | cat >"$tmp/piped"
check "the pipe ends with the command" grep -q 'parent mark-four' "$tmp/piped"
keeper=$(keeper_of mark-four)
check "the keeper stays for the daemon" [ -n "$keeper" ]
echo >"$tmp/hold"
read -r -t 30 _ <"$tmp/hold2"
check "the daemon's memory was right" [ "$(cat "$tmp/daemon")" = 0 ]
check "the keeper ends with the daemon" gone "$keeper"

# descriptors of the caller are not held either
"$run" --local 8M -- sh -c "echo started; : mark-five; read x <'$tmp/hold'" 5>"$tmp/five" >"$tmp/log" &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-five)
appl=$(child_of "$keeper")
check "the keeper holds no descriptor of the caller" [ -z "$(ls -l /proc/"$keeper"/fd | grep "$tmp")" ]
check "nor does the appliance" [ -z "$(ls -l "/proc/${appl% }/fd" | grep "$tmp")" ]
echo >"$tmp/hold"
wait $pid

# a killed member is taken back while the family lives
: >"$tmp/log"
"$run" --local 16M --stats="$tmp/s.json" -- sh -c '
	python3 -c "
import os, signal
a = [os.urandom(65536) for i in range(512)]
os.kill(os.getpid(), signal.SIGKILL)"
	echo status $?; exit 0' >"$tmp/log" 2>&1
check "the member was killed" grep -q 'status 137' "$tmp/log"
check "what it held was given back" python3 -c 'import json,sys; f=json.load(open(sys.argv[1]))["family"]
assert f["slots_used"] == 0 and f["slots_used_max"] > 1000, f["slots_used"]
assert f["resident_pages"] == 0 and f["committed_pages"] == 0, f' "$tmp/s.json"

# the private appliance is killed: one line says so
"$run" --local 8M -- sh -c "echo started; : mark-six; read x <'$tmp/hold'" >"$tmp/log" 2>"$tmp/err" &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-six)
appl=$(child_of "$keeper")
kill -KILL "${appl% }"
check "the loss of the appliance is said" await "$tmp/err" 'private appliance .* was killed by signal 9'
echo >"$tmp/hold"
timeout 60 tail --pid=$pid -s 0.05 -f /dev/null
wait $pid 2>/dev/null
check "and the keeper ends all the same" gone "$keeper"

# the keeper is killed: the appliance goes with it
"$run" --local 8M -- sh -c "echo started; : mark-seven; read x <'$tmp/hold'" >"$tmp/log" 2>"$tmp/err" &
pid=$!
await "$tmp/log" started
keeper=$(keeper_of mark-seven)
appl=$(child_of "$keeper")
kill -KILL "$keeper"
check "the private appliance dies with its keeper" gone "${appl% }"
echo >"$tmp/hold"
wait $pid 2>/dev/null
finish
