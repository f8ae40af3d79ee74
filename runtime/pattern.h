/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern.h - how the program says that it will use a range: madvise(MADV_RANDOM, MADV_SEQUENTIAL, MADV_NORMAL).
 *
 * The book of mappings has it exactly, but faults are answered without the book's lock. So it is also kept for each part of the
 * address space that one entry of the touch map stands for (2 MiB): a range counts where it covers the middle of one. Whoever
 * never gives such advice has no map.
 *
 * Written under the map lock, read by any thread.
 */
#ifndef XM_PATTERN_H
#define XM_PATTERN_H

#include "runtime/internal.h"
#include "runtime/stream.h"

static inline enum xm_pattern xm_pattern_of(struct xm_runtime *rt, uint64_t page)
{
	uint8_t *map = xm_load(&rt->patterns);

	return map ? (enum xm_pattern)xm_load_relaxed(&map[page >> XM_TOUCH_SHIFT]) : XM_PATTERN_NONE;
}

#endif
