/* SPDX-License-Identifier: Apache-2.0 */
/*
 * neighbour.h - whether the page above one that is fetched had better come along.
 *
 * What is as long as a page, or longer, but lies where the allocator put it, is on two pages: whoever reads it at random faults
 * twice, and no distance between faults is a trend. So it is counted: of the pages that were fetched while their neighbour was
 * on an appliance and left there, how many were followed by a fetch of it within the next few. While that is half of them,
 * neighbours come along, but for one in so many, which is left out to count on.
 *
 * A neighbour that was for nothing is a page that another had to leave for. Of those that come along it is not seen which were
 * touched: they are judged by the share that was counted when they came.
 *
 * Threads: the caller serialises (with its set of streams).
 */
#ifndef XM_NEIGHBOUR_H
#define XM_NEIGHBOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "util.h"

#define XM_NEIGHBOUR_FEW 4u	/* fetches of the thread, within which a neighbour is asked for */
#define XM_NEIGHBOUR_ENOUGH 32u /* that were left out, before anything is concluded; at twice as many half of it is forgotten */
#define XM_NEIGHBOUR_SAMPLE 16u /* one in so many is left out while others come along, at random: programs have periods */

/* All zeros before the first use. */
struct xm_neighbour {
	struct {
		uint64_t page;	/* that was left out; 0: it was asked for */
		uint32_t clock; /* at which fetch */
	} wanted[XM_NEIGHBOUR_FEW];
	uint32_t left_out, asked;
	uint32_t came;	 /* along, and are not judged yet */
	uint32_t credit; /* the part of a touched one that is not told yet, in 1 / left_out */
	uint32_t until;	 /* so many come along before the next is left out */
	uint32_t random;
	uint32_t clock; /* fetches of the thread */
	bool pays;
};

/* Page is fetched. True: it is one that was left out, the second part of what began before it. */
static inline bool xm_neighbour_asked(struct xm_neighbour *n, uint64_t page)
{
	n->clock++;
	for (unsigned i = 0; i < XM_NEIGHBOUR_FEW; i++) {
		if (n->wanted[i].page != page || !page || n->clock - n->wanted[i].clock > XM_NEIGHBOUR_FEW)
			continue;
		n->wanted[i].page = 0;
		n->asked = xm_min(n->asked + 1, n->left_out); /* that half of it was forgotten may have come between */
		return true;
	}
	return false;
}

static inline void xm_neighbour_leave(struct xm_neighbour *n, uint64_t page)
{
	unsigned i = n->clock % XM_NEIGHBOUR_FEW; /* what is there is too old */

	n->wanted[i].page = page + 1;
	n->wanted[i].clock = n->clock;
	n->random = n->random * 1664525 + 1013904223; /* Knuth and Lewis, as in Numerical Recipes */
	n->until = (n->random >> 16) % (2 * XM_NEIGHBOUR_SAMPLE - 1);
	if (++n->left_out == 2 * XM_NEIGHBOUR_ENOUGH) {
		n->left_out /= 2;
		n->asked /= 2;
	}
	if (n->left_out >= XM_NEIGHBOUR_ENOUGH)
		n->pays = n->asked * 2 >= n->left_out;
}

/* Page is fetched, nothing else along, and its neighbour is on an appliance: whether that had better come, too. */
static inline bool xm_neighbour_comes(struct xm_neighbour *n, uint64_t page)
{
	if (n->pays && n->until) {
		n->until--;
		return true;
	}
	xm_neighbour_leave(n, page);
	return false;
}

/* Of those that came, so many are to be counted as touched. */
static inline uint32_t xm_neighbour_judge(struct xm_neighbour *n)
{
	uint32_t touched = 0;

	for (; n->came; n->came--) {
		n->credit += n->asked;
		touched += n->credit >= n->left_out;
		if (n->credit >= n->left_out)
			n->credit -= n->left_out;
	}
	return touched;
}

#endif
