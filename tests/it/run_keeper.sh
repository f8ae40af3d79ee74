#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 180 s
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
assert f["slots_used"] <= 1 and f["slots_used_max"] > 1000, f["slots_used"]  # one a kill: runtime/slots.c
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

# a member that executes a program which cannot be covered: its former memory is given back while it lives
if printf '#include <stdio.h>\nint main(int c, char **v) { FILE *f = fopen(v[1], "r"); return f ? getc(f) < 0 : 1; }\n' \
	>"$tmp/s.c" && gcc -static -o "$tmp/static" "$tmp/s.c" 2>/dev/null && [ -e "$top" ]; then
	"$run" --local 8M -- python3 -c "
import os
a = [os.urandom(65536) for i in range(256)]
os.execv('$tmp/static', ['static', '$tmp/hold'])" &
	pid=$!
	used=-1
	for _ in $(seq 300); do
		"$top" --json --family $pid 2>/dev/null >"$tmp/j" || break
		used=$(python3 -c 'import json,sys; f=json.load(open(sys.argv[1]))["family"]
print(f["slots_used"] if f["slots_used_max"] else -1)' "$tmp/j" 2>/dev/null)
		[ "$used" != 0 ] || break
		sleep 0.1
	done
	check "memory of a former program is given back" [ "$used" = 0 ]
	echo >"$tmp/hold"
	wait $pid
	check "and the process was let alone" [ $? = 0 ]
fi

# other namespaces
work='import os
a = [os.urandom(65536) for i in range(256)]
print("sum", sum(x[7] for x in a) > 0)'
if [ "$(id -u)" = 0 ] && unshare -pf --mount-proc true 2>/dev/null; then
	try "$run" --local 8M --stats="$tmp/s.json" -- unshare -pf --mount-proc python3 -c "$work"
	check "another pid namespace" [ "$rc-$(cat "$tmp/out")" = "0-sum True" ]
	check "its members are found and taken back" python3 -c 'import json,sys; j=json.load(open(sys.argv[1]))
f = j["family"]
p = [x for x in j["processes"] if x["comm"].startswith("python3")]
assert p and p[0]["pid"] > 1 and p[0]["state"] == "ended", p
assert f["slots_used"] == 0 and f["slots_used_max"] > 0, f' "$tmp/s.json"
fi
if [ "$(id -u)" = 0 ] && unshare -n true 2>/dev/null; then
	try "$run" --local 8M -- unshare -n python3 -c "$work"
	check "another network namespace: runs, not covered" [ "$rc-$(cat "$tmp/out")" = "0-sum True" ]
	check "and says so" grep -q 'local memory only' "$tmp/err"
fi

# requests from strangers
"$run" --local 8M -- sh -c "echo started \$XMEM_FAMILY; : mark-eight; read x <'$tmp/hold'; exec sh -c 'exit 4'" >"$tmp/log" &
pid=$!
await "$tmp/log" started
check "the keeper refuses strangers and goes on" python3 - "$(awk '{ print $2 }' "$tmp/log")" <<'PY'
import os, random, socket, struct, sys
name, token = sys.argv[1].split(":")
addr = "\0" + name[1:]
good = bytes.fromhex(token)

def talk(data):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(20)
    s.connect(addr)
    try:
        s.send(data)
        return s.recv(64)
    except (BrokenPipeError, ConnectionResetError):
        return b""

def request(op, index=0, tok=good, text=b""):
    return struct.pack("<II16s160s", op, index, tok, text)

status = lambda r: struct.unpack("<iIQ", r)[0]
assert status(talk(request(1))) == 0
assert status(talk(request(1, tok=bytes(16)))) == -13
assert status(talk(request(2, tok=bytes(16)))) == -13
assert status(talk(request(99))) == -95
for index in (5, 1023, 1024, 2**31, 2**32 - 1):
    assert talk(request(2, index)) == b""
assert talk(b"x") == b""
assert talk(request(1) + b"y") == b""
assert talk(request(4, text=b"\xff" * 160)) == b""
seed = random.randrange(1 << 32)
print("seed", seed)
random.seed(seed)
for n in range(500):
    talk(random.randbytes(random.randrange(1, 300)))
held = []
for n in range(400):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(addr)
    held.append(s)
assert status(talk(request(1))) == 0
PY
echo >"$tmp/hold"
wait $pid
check "and the family ends as usual" [ $? = 4 ]
finish
