/* SPDX-License-Identifier: Apache-2.0 */
/*
 * early.h - whether dirty pages may leave before their time, with older ones of their window.
 *
 * A window that leaves as a whole is write-protected by one call; the pages in it that the policy would have kept are sooner
 * on an appliance than they had to be. Whether that costs anything depends on the program: of a heap that is written at random
 * any page is as good a victim as any other, of one with a hot part the young and the kept are the ones that are missed. So it
 * is measured: of both kinds, those that left in time and those that left early, how many left and how many of these are asked
 * for again within half a turn of the budget. Early ones may leave while their share is not above that of the others by more
 * than the excess that the caller names; while they may not, or nothing is known yet, a window is taken all the same now and then,
 * as a sample.
 *
 * Counts are kept by the epoch in which pages left, which the word of a page on an appliance names, with its kind (pagetab.h).
 * What left less than half a turn ago may still come back, and is not judged yet.
 *
 * Threads: under the reclaim lock, but for xm_early_back(), which anybody may call.
 */
#ifndef XM_EARLY_H
#define XM_EARLY_H

#include "runtime/pagetab.h"

#define XM_EARLY_SOON 4u     /* epochs: half of a turn of the budget */
#define XM_EARLY_ENOUGH 200u /* pages of a kind, before anything is concluded */
#define XM_EARLY_EPOCHS 16u  /* that are remembered; those older than SOON are judged */

struct xm_early {
	struct xm_early_epoch {
		uint32_t gone[2], back[2]; /* atomic; [0] in time, [1] early */
	} of[XM_EARLY_EPOCHS];
	uint64_t since; /* the last early one: pages that left in time */
	uint8_t epoch, judged;
	bool may;
};

/* Forgets what left so long ago that its place is needed. */
static inline void xm_early_turn(struct xm_early *e, uint8_t now)
{
	uint8_t passed = xm_min((uint8_t)(now - e->epoch), (uint8_t)XM_EARLY_EPOCHS);

	for (; passed > 0; passed--) {
		struct xm_early_epoch *of = &e->of[(uint8_t)(now - passed + 1) % XM_EARLY_EPOCHS];

		for (int i = 0; i < 2; i++) {
			__atomic_store_n(&of->gone[i], 0, __ATOMIC_RELAXED);
			__atomic_store_n(&of->back[i], 0, __ATOMIC_RELAXED);
		}
	}
	e->epoch = now;
}

/* What those say that left longer than half a turn ago. */
static inline bool xm_early_judge(struct xm_early *e, uint64_t excess)
{
	uint64_t gone[2] = { 0, 0 }, back[2] = { 0, 0 };

	for (unsigned age = XM_EARLY_SOON + 1; age < XM_EARLY_EPOCHS; age++) {
		const struct xm_early_epoch *of = &e->of[(uint8_t)(e->epoch - age) % XM_EARLY_EPOCHS];

		for (int i = 0; i < 2; i++) {
			gone[i] += xm_load_relaxed(&of->gone[i]);
			back[i] += xm_load_relaxed(&of->back[i]);
		}
	}
	if (gone[0] < XM_EARLY_ENOUGH || gone[1] < XM_EARLY_ENOUGH)
		return false;
	/* back[1] / gone[1] <= back[0] / gone[0] + 1 / excess */
	return back[1] * gone[0] * excess <= gone[1] * (back[0] * excess + gone[0]);
}

/* Whether a window may leave as a whole at epoch `now`, where one early page in `excess` may be missed in vain. As a sample:
 * where so many have left in time since the last early one. */
static inline bool xm_early_may(struct xm_early *e, uint8_t now, uint64_t excess, uint64_t sample)
{
	xm_early_turn(e, now);
	if (e->judged != now)
		e->may = xm_early_judge(e, excess);
	e->judged = now;
	return e->may || e->since >= sample;
}

/* A page has left; w: its word, which says how and when. */
static inline void xm_early_gone(struct xm_early *e, xm_pte w)
{
	bool early = xm_pg_left(w) == XM_LEFT_EARLY;

	if (xm_pg_left(w) == XM_LEFT_UNKNOWN)
		return;
	xm_early_turn(e, xm_pg_epoch(w)); /* which may be later than that of the window */
	xm_add(&e->of[xm_pg_epoch(w) % XM_EARLY_EPOCHS].gone[early], 1);
	e->since = early ? 0 : e->since + 1;
}

/* A page is wanted again at epoch `now`; w: its word when it was on an appliance. */
static inline void xm_early_back(struct xm_early *e, xm_pte w, uint8_t now)
{
	if (xm_pg_left(w) != XM_LEFT_UNKNOWN && (uint8_t)(now - xm_pg_epoch(w)) <= XM_EARLY_SOON)
		xm_add(&e->of[xm_pg_epoch(w) % XM_EARLY_EPOCHS].back[xm_pg_left(w) == XM_LEFT_EARLY], 1);
}

#endif
