#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 60 s
# xmem-run --check: what it says of this machine, of limits, and to a user without access.
. "$(dirname "$0")/librun.sh"

try "$run" --check
check "status" [ "$rc" = 0 -o "$rc" = 125 ]
if [ "$rc" = 125 ]; then
	check "125 only with something missing" grep -q '^MISSING' "$tmp/out"
fi
for what in kernel userfaultfd process_madvise 'open files' overcommit max_map_count 'huge pages' \
	'preload object' 'private appliance'; do
	check "a line on $what" [ "$(grep -cE "^(ok|note|MISSING) +$what " "$tmp/out")" = 1 ]
done
check "a line on RDMA" [ "$(grep -cE "^(ok|note|MISSING) +RDMA " "$tmp/out")" -ge 1 ]
check "every line is one of three" [ -z "$(grep -vE '^(ok|note|MISSING) ' "$tmp/out")" ]
ok=$rc
check "nothing that is not used" [ -z "$(grep -E 'fork event|ASYNC|UNPOPULATED' "$tmp/out")" ]

(
	ulimit -S -n 100
	try "$run" --check
	cp "$tmp/out" "$tmp/nofile"
)
check "few open files: the command that mends it" grep -q '^note .*ulimit -n 256' "$tmp/nofile"
(
	ulimit -S -f 1000
	try "$run" --check
	echo $rc >"$tmp/rc"
	cp "$tmp/out" "$tmp/fsize"
)
check "file size limit" grep -q '^MISSING .*ulimit -f unlimited' "$tmp/fsize"
check "file size limit: status" [ "$(cat "$tmp/rc")" = 125 ]
try env XMEM_PRELOAD=/no/such.so "$run" --check
check "no preload object" grep -q '^MISSING  preload object' "$tmp/out"
check "no preload object: status" [ "$rc" = 125 ]
try "$run" --check --appliance shm:@xmem-no-such
check "an appliance that is not there" grep -q '^MISSING  appliance .*@xmem-no-such' "$tmp/out"

nobody() {
	setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all "$@"
}
if [ "$(id -u)" = 0 ] && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] && nobody test -x "$run" &&
	! nobody test -w /dev/userfaultfd; then
	try nobody "$run" --check
	check "a user without access: status" [ "$rc" = 125 ]
	check "a user without access: the command that mends it" \
		grep -q '^MISSING  userfaultfd .*setfacl -m u:nobody:rw /dev/userfaultfd' "$tmp/out"
	for strict in --strict --no-strict; do
		check_refused "a user without access, $strict" 125 \
			"no access to userfaultfd: as root, setfacl -m u:nobody:rw /dev/userfaultfd, or sysctl -w vm" \
			nobody env HOME=/ "$run" $strict --local 4M -- /usr/bin/python3 -c 'x = bytearray(300 << 20)'
	done
	# a device node of the test's own, in a mount namespace of its own
	if unshare -m true 2>/dev/null && [ -c /dev/userfaultfd ]; then
		nodes=$(stat -c '%t %T' /dev/userfaultfd)
		try unshare -m sh -c "mount -t tmpfs none /mnt && mknod /mnt/u c 0x${nodes% *} 0x${nodes#* } &&
			chmod 666 /mnt/u && mount --bind /mnt/u /dev/userfaultfd &&
			exec setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all '$run' --check"
		check "a user with access" grep -q '^ok       userfaultfd          access by /dev/userfaultfd' "$tmp/out"
		check "a user with access: status" [ "$rc" = "$ok" ]
	fi
else
	echo "not root, or access is open: the user without access is left out"
fi
finish
