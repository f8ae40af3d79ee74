/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evict_common.h - what the eviction policies share: a set of the pages chosen by one pick, and
 * the search for pages that a full ring had to forget. Inline, no state of its own; the callers'
 * lock covers it.
 */
#ifndef XM_EVICT_COMMON_H
#define XM_EVICT_COMMON_H

#include <stdbool.h>
#include <string.h>

#include "log.h"
#include "policy.h"
#include "util.h"

static inline uint64_t evict_hash(uint64_t page)
{
	/* the finaliser of splitmix64: neighbouring pages must not fall into neighbouring buckets */
	page ^= page >> 30;
	page *= 0xbf58476d1ce4e5b9ull;
	page ^= page >> 27;
	page *= 0x94d049bb133111ebull;
	return page ^ (page >> 31);
}

/* Rings store 32-bit page indices, which reach 16 TiB; the runtime's range is smaller than that. */
static inline uint32_t evict_narrow(uint64_t page)
{
	xm_assert(page <= UINT32_MAX);
	return (uint32_t)page;
}

/*
 * ---- pages chosen by the pick that is running
 * -------------------------------------------------------- A page can be in a ring twice (taken by
 * other means, fetched again) and would look evictable both times, since the mover acts only after
 * the pick. One bit per hash answers "surely not chosen" in nearly all cases: with 512 chosen
 * pages 3 % of the questions go on to compare with all of them. All bits are 0 between picks.
 */
#define PICKED_BITS 16384u

struct evict_picked {
	uint64_t bits[PICKED_BITS / 64];
};

static inline bool evict_picked_has(const struct evict_picked *s, uint64_t page, const uint64_t *pages, int n)
{
	unsigned bit = (unsigned)(evict_hash(page) % PICKED_BITS);
	int i;

	if (!(s->bits[bit / 64] >> (bit % 64) & 1))
		return false;
	for (i = 0; i < n; i++)
		if (pages[i] == page)
			return true;
	return false;
}

static inline void evict_picked_add(struct evict_picked *s, uint64_t page)
{
	unsigned bit = (unsigned)(evict_hash(page) % PICKED_BITS);

	s->bits[bit / 64] |= 1ull << (bit % 64);
}

static inline void evict_picked_reset(struct evict_picked *s, const uint64_t *pages, int n)
{
	int i;

	for (i = 0; i < n; i++)
		s->bits[evict_hash(pages[i]) % PICKED_BITS / 64] = 0;
}

/*
 * ---- pages that did not fit
 * -------------------------------------------------------------------------- Stale entries
 * (unmapped pages) are noticed only when a pick reaches them, so a program that maps and unmaps
 * without ever being short of memory fills any ring. The oldest entry is then overwritten. It is
 * probably stale, but might be resident, and would never be chosen again. So as long as something
 * may have been lost, each pick also spends a share of its budget on asking about the pages
 * between the lowest and the highest ever inserted, until one lap is complete after the last loss.
 */
struct evict_lost {
	uint64_t lowest, highest; /* ever inserted */
	uint64_t cursor;
	uint64_t left; /* pages still to ask about; 0: nothing is lost */
	bool again;    /* a page of this lap could not be taken: one more lap */
	unsigned turn; /* of four picks, where one is too small to be shared */
};

static inline void evict_lost_init(struct evict_lost *l)
{
	*l = (struct evict_lost){ .lowest = UINT64_MAX };
}

static inline void evict_lost_saw(struct evict_lost *l, uint64_t page)
{
	l->lowest = xm_min(l->lowest, page);
	l->highest = xm_max(l->highest, page);
}

static inline void evict_lost_restart(struct evict_lost *l)
{
	l->left = l->highest - l->lowest + 1;
	l->again = false;
}

/* A quarter of what a pick wants, at most: what is found this way is in no order of age. */
static inline int evict_lost_share(struct evict_lost *l, int n)
{
	if (l->left == 0 || n <= 0)
		return 0;
	return n >= 4 ? n / 4 : l->turn++ % 4 == 0;
}

/* Up to n pages found by asking at most `budget` times; how many. They are in `picked` then. */
static inline int evict_lost_find(struct evict_lost *l, const struct xm_evict_view *view,
				  struct evict_picked *picked, uint64_t *pages, int n, int budget)
{
	int have = 0;

	while (have < n && budget-- > 0 && l->left) {
		enum xm_page_fact fact;
		uint64_t page;

		if (l->cursor < l->lowest || l->cursor > l->highest)
			l->cursor = l->lowest;
		page = l->cursor++;
		if (evict_picked_has(picked, page, pages, have))
			continue; /* the next lap has begun within this call */
		fact = view->query(view->ctx, page);
		if (fact == XM_PAGE_IDLE) {
			pages[have++] = page;
			evict_picked_add(picked, page);
		} else if (fact != XM_PAGE_GONE) {
			l->again = true;
		}
		if (--l->left == 0 && l->again)
			evict_lost_restart(l);
	}
	return have;
}

#endif
