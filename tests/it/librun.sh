# SPDX-License-Identifier: Apache-2.0
# librun.sh - what the run_*.sh scripts share; sourced.
#   $run, $top, $appliance   the programs under test      $tmp   a directory of the test's own
#   check WHAT CONDITION...  counts; check_line FILE TEXT: FILE is one line that holds TEXT
#   finish                   exit status of the script
build=${XMEM_BUILD:?XMEM_BUILD names the build directory}
run=$build/xmem-run
top=$build/xmem-top
appliance=$build/xmem-appliance
tmp=$(mktemp -d)
chmod 755 "$tmp"
trap 'rm -rf "$tmp"' EXIT
export HOME=$tmp/home XDG_CONFIG_HOME=
unset XMEM_MASK XMEM_STATS_JSON XMEM_PRELOAD LD_PRELOAD XMEM_FAMILY
mkdir -p "$HOME"
failed=0
passed=0

for p in "$run" "$appliance" "$build/libxmem-preload.so"; do
	if [ ! -e "$p" ]; then
		echo "$p is not built"
		exit 77
	fi
done

check() {
	local what=$1
	shift
	if "$@"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $what: $*"
		[ ! -s "$tmp/err" ] || sed 's/^/    stderr: /' "$tmp/err"
	fi
}

# status of the command in $rc, its output in $tmp/out and $tmp/err
try() {
	"$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	rc=$?
}

# NAME STATUS TEXT COMMAND...: ends with STATUS after exactly one line on stderr that holds TEXT
check_refused() {
	local what=$1 status=$2 text=$3
	shift 3
	try "$@"
	check "$what: status" [ "$rc" = "$status" ]
	check "$what: one line" [ "$(wc -l <"$tmp/err")" = 1 ]
	check "$what: says '$text'" grep -qF -- "$text" "$tmp/err"
}

# waits (bounded) until no process of the given ids is left
gone() {
	local p
	for p; do
		timeout 20 tail --pid="$p" -s 0.05 -f /dev/null || return 1
	done
}

finish() {
	echo "$passed checks passed, $failed failed"
	[ "$failed" = 0 ]
	exit
}
