#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# time limit: 200 s
# time limit, all: 3600 s
#
# stress.sh - the stress program over links, policies, masked features and injected trouble: seconds each at
# XMEM_LEVEL=check, a minute each with two seeds at XMEM_LEVEL=all. A failure prints the command that repeats it.
set -u
build=${XMEM_BUILD:?XMEM_BUILD names the build directory}
stress=$build/tests/stress/stress
[ -x "$stress" ] || { echo "$stress is not built"; exit 77; }
unset XMEM_MASK XMEM_FAMILY LD_PRELOAD

if [ "${XMEM_LEVEL:-check}" = all ]; then
	seconds=60 seeds=2
else
	seconds=3 seeds=1
fi

# each line: the options of one run
runs() {
	cat <<-END
		--link shm --evict s3fifo --prefetch majority
		--link tcp --evict clock --prefetch stride
		--link shm --mask move,poison,madvise_vec --evict clock --prefetch none
		--link tcp --mask wp --evict s3fifo --prefetch majority
		--link shm --pins --prefetch stride
		--link tcp --pins --mask poison,madvise_vec
		--link shm --verify --inject delay=2ms:0.01,error=0.01,corrupt=0.01
		--link tcp --inject delay=1ms:0.01,error=0.01,corrupt=0.005 --evict clock
		--link tcp --inject disconnect=0.001 --no-fork
		--link shm --threads 6 --handlers 4 --local 24
		--link tcp --threads 8 --local 24 --inject delay=200us:1
		--link shm --threads 1 --local 8
		--link shm --local 64
		--link tcp --local 64 --threads 2 --inject delay=1ms:0.01
		--link shm --only map,unmap,remap,fixed,protect,write,read,discard --no-fork --threads 4
	END
	# a child that is killed before it lives is taken back after half a minute only: too long for level check
	[ "${XMEM_LEVEL:-check}" != all ] || printf '%s\n' "--link shm --kills" "--link tcp --kills --evict clock --prefetch stride"
}

failed=0 done=0
while read -r options; do
	for ((i = 0; i < seeds; i++)); do
		seed=$((RANDOM * 32768 + RANDOM))
		# shellcheck disable=SC2086
		out=$(timeout $((seconds + 120)) "$stress" --seconds "$seconds" --seed "$seed" $options 2>&1)
		rc=$?
		done=$((done + 1))
		if [ "$rc" != 0 ]; then
			failed=$((failed + 1))
			echo "FAILED ($rc): tests/stress/stress --seconds $seconds --seed $seed $options"
			tail -40 <<<"$out"
		else
			echo "ok: --seed $seed $options: $(sed -n 's/^stress: \([0-9]* operations, [0-9]* forks\).*/\1/p' <<<"$out")"
		fi
	done
done < <(runs)
echo "$done runs, $failed failed"
[ "$failed" = 0 ]
