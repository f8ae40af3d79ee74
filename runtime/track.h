/* SPDX-License-Identifier: Apache-2.0 */
/*
 * track.h - which pages are worth protecting when a read brings them in.
 *
 * A protected page is known clean when it leaves, which saves a write; if it is written first, that costs a fault, which is
 * dearer. Both outcomes are counted for each part of the address space that one entry of the touch map stands for (2 MiB),
 * in that entry: 1 is touched, and each step above it is a surplus of pages written over pages that left clean. Where the
 * surplus is large pages come in writable, and dirty, but for one in SAMPLE (always the same ones, scattered), by which a
 * change of habit shows.
 *
 * Any thread; lock-free. A count that two threads change at once may lose a step.
 */
#ifndef XM_TRACK_H
#define XM_TRACK_H

#include "runtime/internal.h"

#define XM_TRACK_SAMPLE 8u
#define XM_TRACK_MAX 65u   /* where counting ends */
#define XM_TRACK_LIMIT 33u /* above it pages come in writable */
#define XM_TRACK_WROTE 2   /* a fault is dearer than the write of a clean page: README.md, "Known clean" */

static inline void xm_track(struct xm_runtime *rt, uint64_t page, int step)
{
	uint8_t *t = &rt->touch[page >> XM_TOUCH_SHIFT];
	int now = xm_load_relaxed(t), next = xm_max(xm_min(now + step, (int)XM_TRACK_MAX), 1);

	if (now && now != next)
		__atomic_store_n(t, (uint8_t)next, __ATOMIC_RELAXED);
}

/* A protected page has been written; has left without having been. */
static inline void xm_track_wrote(struct xm_runtime *rt, uint64_t page)
{
	xm_track(rt, page, XM_TRACK_WROTE);
}

static inline void xm_track_clean(struct xm_runtime *rt, uint64_t page)
{
	xm_track(rt, page, -1);
}

/* Whether a page that is read now had better come in writable. */
static inline bool xm_track_writable(struct xm_runtime *rt, uint64_t page)
{
	return xm_load_relaxed(&rt->touch[page >> XM_TOUCH_SHIFT]) > XM_TRACK_LIMIT &&
	       (page * 0x9e3779b97f4a7c15ull >> 32) % XM_TRACK_SAMPLE != 0;
}

#endif
