#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 60 s
# The static probes: those of man/xmem-probes.7 are in the built libraries with as many arguments, no others are, and the
# sources that have them compile without sys/sdt.h, to nothing.
. "$(dirname "$0")/librun.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)

if ! command -v readelf >/dev/null || ! echo '#include <sys/sdt.h>' | gcc -E -x c - >/dev/null 2>&1; then
	echo "readelf or sys/sdt.h is not installed (tools/setup)"
	exit 77
fi

# NAME ARGUMENTS, a line each
documented() {
	sed -n 's/^\.BR \([a-z_]*\) ( \(.*\) )$/\1 \2/p' "$root/man/xmem-probes.7" | tr -d '"' |
		awk '{ n = gsub(/,/, ","); print $1, n + 1 }' | sort
}
# the same of an object; a probe that is inlined twice is listed once. Every argument is an integer: SIZE@PLACE
built() {
	readelf -n "$1" | awk '$1 == "Provider:" { provider = $2 } $1 == "Name:" { name = $2 }
		$1 == "Arguments:" { for (i = 2; i <= NF; i++) if ($i !~ /^-?[1248]@/) $i = "BAD"
			if (provider == "xmem") print name, NF - 1, /BAD/ ? $0 : "" }' | sed 's/ *$//' | sort -u
}

documented >"$tmp/documented"
cat "$tmp/documented"
check "the manual names them" [ "$(wc -l <"$tmp/documented")" -ge 9 ]
for lib in libxmem-preload.so "$(basename "$(readlink -f "$build/libxmem.so")")"; do
	built "$build/$lib" >"$tmp/built"
	check "$lib has what the manual says" diff "$tmp/documented" "$tmp/built"
done
check "no semaphore: nothing is paid for a probe that nobody watches" \
	sh -c "! readelf -n '$build/libxmem-preload.so' | grep Semaphore | grep -v 'Semaphore: 0x0*$'"

for source in "$root"/runtime/*.c; do
	grep -q 'XM_PROBE[0-9]' "$source" || continue
	check "$(basename "$source") compiles without probes" gcc -std=gnu11 -O1 -Wall -Wextra -Werror -Wno-unused-parameter \
		-D_GNU_SOURCE -DXM_NO_PROBES -I"$root/include" -I"$root/common" -I"$root" -c -o "$tmp/o.o" "$source"
	check "$(basename "$source") has none then" [ -z "$(readelf -n "$tmp/o.o" | grep stapsdt)" ]
done
finish
