#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 60 s
# xmem-run: commands that cannot be covered, the preload object, the environment of the command.
. "$(dirname "$0")/librun.sh"

# a static program
printf '#include <stdio.h>\nint main(void) { puts("static"); return 3; }\n' >"$tmp/s.c"
if gcc -static -o "$tmp/static" "$tmp/s.c" 2>/dev/null; then
	try "$run" --local 8M -- "$tmp/static"
	check "static runs" [ "$rc-$(cat "$tmp/out")" = 3-static ]
	check "static: one line" [ "$(wc -l <"$tmp/err")" = 1 ]
	check "static: says so" grep -q "cannot be covered: it is statically linked" "$tmp/err"
	check_refused "static, strict" 125 "statically linked" "$run" --strict -- "$tmp/static"
	printf '#!%s\n' "$tmp/static" >"$tmp/script"
	chmod 755 "$tmp/script"
	check_refused "script of a static interpreter, strict" 125 "statically linked" "$run" --strict -- "$tmp/script"
	try "$run" --local 8M --stats -- "$tmp/static"
	check "static is counted" grep -q "1 command(s) NOT covered" "$tmp/err"
	cat >"$tmp/deep" <<-END
		#!/bin/sh
		"$tmp/static"
		python3 -c 'import os, subprocess
		subprocess.run(["$tmp/static", "x"]); os.posix_spawn("$tmp/static", ["y"], os.environ)
		os.execl("$tmp/static", "z", "1", "2")'
		env -i /bin/true
		exit 0
	END
	chmod 755 "$tmp/deep"
	try "$run" --local 8M --stats -- "$tmp/deep"
	check "deeper: runs all" [ "$rc-$(grep -c static "$tmp/out")" = 0-4 ]
	check "deeper: each is counted" grep -q "5 command(s) NOT covered" "$tmp/err"
	check "deeper: says what and why" grep -q "not covered: $tmp/static: it is statically linked" "$tmp/err"
	check "deeper: an environment without us" grep -q "not covered: /bin/true: its environment is without LD_PRELOAD" "$tmp/err"
	try "$run" --local 8M --log-level error -- "$tmp/static"
	check "static, log level error: silent" [ "$rc-$(wc -c <"$tmp/err")" = 3-0 ]
else
	echo "no static C library: static programs left out"
fi

# a keeper that had no processor from the command's last words to its end hears both at once, and counts them
"$run" --local 8M --stats -- /usr/bin/python3 -c '
import os, signal, sys
me = os.getppid()
for child in open(f"/proc/{me}/task/{me}/children").read().split():
    if open(f"/proc/{child}/comm").read() == "xmem-keeper\n":
        with open(sys.argv[1] + ".new", "w") as f:
            print(os.getpid(), child, file=f)
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        os.kill(int(child), signal.SIGSTOP)
        os.execve("/bin/true", ["true"], {})
sys.exit("no keeper")' "$tmp/who" >"$tmp/out" 2>"$tmp/err" </dev/null &
pid=$!
until [ -e "$tmp/who" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
if read -r command keeper <"$tmp/who"; then
	check "last words: the command ends" gone "$command"
	until grep -q '^State:.S' "/proc/$pid/status"; do sleep 0.01; done # it has told the keeper, and waits
	kill -CONT "$keeper"
fi
wait $pid
check "last words: are counted" [ "$?-$(grep -c '1 command(s) NOT covered' "$tmp/err")" = 0-1 ]

# another user is not served by this keeper: its runtime cannot start
if [ "$(id -u)" = 0 ]; then
	as_nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups /usr/bin/python3 -c 'x = bytearray(8 << 20); print(len(x))')
	try "$run" --local 8M -- "${as_nobody[@]}"
	check "a runtime that cannot start: local" [ "$rc-$(cat "$tmp/out")" = 0-8388608 ]
	check "a runtime that cannot start: says so" grep -q "the program runs with local memory only" "$tmp/err"
	try "$run" --local 8M --strict -- "${as_nobody[@]}"
	check "a runtime that cannot start, strict" [ "$rc-$(cat "$tmp/out")" = 125- ]
	check "a runtime that cannot start, strict: says so" grep -q -- "--strict ends the program" "$tmp/err"
fi

# other machines: headers are enough, nothing is executed
elf() {
	python3 - "$1" "$2" "$3" <<'PY'
import struct, sys
path, cls, machine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ident = b"\x7fELF" + bytes([cls, 1, 1]) + bytes(9)
open(path, "wb").write(ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0) + bytes(64))
PY
	chmod 755 "$1"
}
elf "$tmp/i386" 1 3
check_refused "32-bit, strict" 125 "32-bit" "$run" --strict -- "$tmp/i386"
elf "$tmp/s390" 2 22
check_refused "another architecture, strict" 125 "another architecture (ELF machine 22)" "$run" --strict -- "$tmp/s390"

# privileged programs: the dynamic linker ignores preload objects there
if [ "$(id -u)" = 0 ]; then
	install -o nobody -m 4755 /bin/true "$tmp/suid"
	check_refused "setuid, strict" 125 "setuid" "$run" --strict -- "$tmp/suid"
	install -g nogroup -m 2755 /bin/true "$tmp/sgid"
	check_refused "setgid, strict" 125 "setgid" "$run" --strict -- "$tmp/sgid"
else
	check_refused "setuid, strict" 125 "setuid" "$run" --strict -- passwd
fi

try "$run" --local 8M --strict -- sh -c 'echo $LD_PRELOAD; echo $XMEM_FAMILY'
check "strict runs what can be covered" [ "$rc" = 0 ]
check "LD_PRELOAD is the preload object" grep -qx "$(realpath "$build")/libxmem-preload.so" "$tmp/out"
check "XMEM_FAMILY names the keeper" grep -qE '^@xmem-[0-9]+-[0-9a-f]{12}:[0-9a-f]{32}$' "$tmp/out"

m=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)
m=$(awk '/libm\.so\.6.*x86-64/ { print $NF; exit }' <<<"$m")
LD_PRELOAD=$m try "$run" --local 8M -- sh -c 'echo $LD_PRELOAD'
check "what LD_PRELOAD held comes after it" [ "$(cat "$tmp/out")" = "$(realpath "$build")/libxmem-preload.so:$m" ]
mkdir "$tmp/a b"
cp "$build/libxmem-preload.so" "$tmp/a b/p.so"
check_refused "a preload object with a blank in its path" 125 "no blank" env XMEM_PRELOAD="$tmp/a b/p.so" "$run" -- true
cp "$build/libxmem-preload.so" "$tmp/p.so"
XMEM_PRELOAD=$tmp/p.so try "$run" --local 8M -- sh -c 'echo $LD_PRELOAD'
check "XMEM_PRELOAD is used" [ "$(cat "$tmp/out")" = "$tmp/p.so" ]

# an installation under any prefix
mkdir -p "$tmp/usr/bin" "$tmp/usr/lib/xmem"
cp "$run" "$appliance" "$tmp/usr/bin/"
cp "$build/libxmem-preload.so" "$tmp/usr/lib/xmem/"
try "$tmp/usr/bin/xmem-run" --local 8M -- sh -c 'echo $LD_PRELOAD'
check "under a prefix" [ "$rc-$(cat "$tmp/out")" = "0-$tmp/usr/lib/xmem/libxmem-preload.so" ]
rm "$tmp/usr/bin/xmem-appliance"
check_refused "without an appliance program" 125 "xmem-appliance: No such file" "$tmp/usr/bin/xmem-run" -- true
finish
