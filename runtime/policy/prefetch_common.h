/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefetch_common.h - what the prefetch policies share: the run of pages that the last advice
 * named, how its window grows and shrinks, and the clamp that keeps advice within page numbers.
 * Inline; the state is the caller's, one per stream of a thread.
 */
#ifndef XM_PREFETCH_COMMON_H
#define XM_PREFETCH_COMMON_H

#include <stdbool.h>
#include <string.h>

#include "policy.h"
#include "util.h"

#define WINDOW_MIN 2

/* Page numbers are handled as int64_t; no address space has more (2^52 pages of 4 KiB). */
#define PAGE_LIMIT ((uint64_t)1 << 52)

struct prefetch_run {
	uint64_t last;	 /* page of the last fault */
	int64_t stride;	 /* 0: no run known */
	int32_t window;	 /* pages to ask for; 0: none */
	int32_t advised; /* pages the last advice named */
	int32_t wasted;	 /* since the window last shrank */
	bool has_last;
};

/* Whether page lies on the run's continuation: a run that was prefetched in full (the next fault is behind it) and
 * one whose prefetch came late both count, and so does one that was followed by pages that were resident already,
 * as far as another run of advice. What was advised may begin behind an earlier run, which is at most as long. */
static inline bool prefetch_run_continues(const struct prefetch_run *r, int64_t delta)
{
	int64_t steps;

	if (r->stride == 0 || delta % r->stride)
		return false;
	steps = delta / r->stride;
	return steps >= 1 && steps <= 3 * (int64_t)r->advised + 1;
}

static inline void prefetch_run_grow(struct prefetch_run *r)
{
	r->window = xm_min(xm_max(r->window * 2, WINDOW_MIN), XM_PREFETCH_MAX);
}

/* A quarter of a window untouched halves it; below the least window it is 0 until confirmed. */
static inline void prefetch_run_waste(struct prefetch_run *r, uint64_t n)
{
	for (; n && r->window; n--) {
		if (++r->wasted * 4 < r->window)
			continue;
		r->wasted = 0;
		r->window /= 2;
		if (r->window < WINDOW_MIN)
			r->window = 0;
	}
}

/* The advice for a fault on page: as much of the window as has page numbers of 0 .. PAGE_LIMIT - 1 */
static inline struct xm_prefetch_advice prefetch_run_advise(struct prefetch_run *r, uint64_t page)
{
	struct xm_prefetch_advice a = { .stride = r->stride ? r->stride : 1, .count = 0 };
	uint64_t room;

	if (r->stride > 0)
		room = (PAGE_LIMIT - 1 - page) / (uint64_t)r->stride;
	else if (r->stride < 0)
		room = page / (uint64_t)-r->stride;
	else
		room = 0;
	a.count = (int32_t)xm_min(room, (uint64_t)r->window);
	r->advised = a.count;
	return a;
}

#endif
