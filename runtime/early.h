/* SPDX-License-Identifier: Apache-2.0 */
/*
 * early.h - whether dirty pages may leave before their time, with older ones of their window.
 *
 * A window that leaves as a whole is write-protected by one call; the pages in it that the policy would have kept are sooner
 * on an appliance than they had to be. Whether that costs anything depends on the program: of a heap that is written at random
 * any page is as good a victim as any other, of one with a hot part the young and the kept are the ones that are missed. So it
 * is measured: of both kinds, those that left in time and those that left early, how many left and how many of these are asked
 * for again within half a turn of the budget. Early ones may leave while their share is not above that of the others by more
 * than the excess that the caller names; if they may not, a window is taken all the same after every SAMPLE pages that left
 * in time, by which a change shows.
 *
 * Where a page is on an appliance its word says how it left, and when (pagetab.h).
 *
 * Any thread; counts are relaxed atomics, and one that two threads change at once may lose a step.
 */
#ifndef XM_EARLY_H
#define XM_EARLY_H

#include "runtime/pagetab.h"

#define XM_EARLY_SAMPLE 1024u
#define XM_EARLY_SOON 4u     /* epochs: half of a turn of the budget */
#define XM_EARLY_ENOUGH 256u /* pages of a kind, before anything is concluded */
#define XM_EARLY_KEEP 4096u  /* pages of a kind, after which the past counts half */

struct xm_early {
	uint64_t gone[2], back[2]; /* [0] in time, [1] early */
	uint64_t since; /* the last sample: pages that left in time */
};

static inline void xm_early_step(uint64_t *count)
{
	__atomic_store_n(count, xm_load_relaxed(count) + 1, __ATOMIC_RELAXED);
}

/* A dirty page is on an appliance. By one thread at a time. */
static inline void xm_early_gone(struct xm_early *e, bool early)
{
	xm_early_step(&e->gone[early]);
	e->since += !early;
	if (e->gone[early] < XM_EARLY_KEEP)
		return;
	for (int i = 0; i < 2; i++) {
		__atomic_store_n(&e->gone[i], e->gone[i] / 2, __ATOMIC_RELAXED);
		__atomic_store_n(&e->back[i], xm_load_relaxed(&e->back[i]) / 2, __ATOMIC_RELAXED);
	}
}

/* A page is asked for whose word was this, at epoch `now`. */
static inline void xm_early_back(struct xm_early *e, xm_pte word, uint8_t now)
{
	if (xm_pg_left(word) != XM_LEFT_CLEAN && (uint8_t)(now - xm_pg_epoch(word)) <= XM_EARLY_SOON)
		xm_early_step(&e->back[xm_pg_left(word) == XM_LEFT_EARLY]);
}

/* Whether the window in hand may leave as a whole, where one early page in `excess` may be missed in vain. By one thread at a
 * time. */
static inline bool xm_early_may(struct xm_early *e, uint64_t excess)
{
	uint64_t early = e->gone[1], in_time = e->gone[0];

	if (early >= XM_EARLY_ENOUGH && e->since < XM_EARLY_SAMPLE) {
		if (in_time < XM_EARLY_ENOUGH)
			return false;
		/* back[1] / early <= back[0] / in_time + 1 / excess */
		return xm_load_relaxed(&e->back[1]) * in_time * excess <=
		       early * (xm_load_relaxed(&e->back[0]) * excess + in_time);
	}
	e->since = 0;
	return true;
}

#endif
