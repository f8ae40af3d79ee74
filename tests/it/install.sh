#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 60 s
#
# install.sh - what make install writes names the directories that it was given, and the service manager takes it.
set -u
build=${XMEM_BUILD:?XMEM_BUILD names the build directory}
unset MAKEFLAGS MAKELEVEL
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

fail() { echo "FAILED: $*"; failed=1; }

cd "$(dirname "$0")/../.." || exit 1
make -s install BUILD="$(dirname "$build")" VARIANT="$(basename "$build")" DESTDIR="$tmp" PREFIX=/opt/xmem \
	SYSCONFDIR=/opt/etc >"$tmp/log" 2>&1 || { cat "$tmp/log"; fail "make install"; }
unit=$tmp/opt/xmem/lib/systemd/system/xmem-appliance.service
grep -qx 'ExecStart=/opt/xmem/bin/xmem-appliance --config /opt/etc/xmem/xmem-appliance.conf' "$unit" ||
	fail "the unit's command: $(grep ExecStart "$unit")"
grep -rn '@[A-Z]*DIR@\|@PREFIX@\|@VERSION@' "$tmp/opt/xmem/lib/systemd" "$tmp/opt/xmem/lib/pkgconfig" &&
	fail "something was not replaced"
[ -x "$tmp/opt/xmem/bin/xmem-appliance" ] || fail "no program"
[ -r "$tmp/opt/etc/xmem/xmem-appliance.conf" ] || fail "no settings"
# the command as it lies here, so that it is found
sed "s,^ExecStart=,&$tmp," "$unit" >"$tmp/xmem-appliance.service"
if command -v systemd-analyze >/dev/null && ! systemd-analyze verify --man=no "$tmp/xmem-appliance.service" >"$tmp/log" 2>&1; then
	grep -q 'xmem-appliance.service' "$tmp/log" && { cat "$tmp/log"; fail "systemd-analyze verify"; }
fi
exit $failed
