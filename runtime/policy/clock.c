/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.c - second chance over a ring of page indices in order of insertion.
 * Under the caller's lock; allocates nothing; 8 bytes per page of capacity.
 *
 *	         head                      head + count
 *	          v                             v
 *	ring: |   | oldest |  ...  | youngest |      |        room = 2 * capacity entries, wraps
 *	            |                        ^
 *	            +-- referenced or held --+                idle: victim        gone: dropped
 *
 * Entries may be stale or double: the mover's answer decides, and one pick names a page once. When
 * the ring is more than 3/4 full, being referenced no longer saves a page (pick must make room);
 * what does not fit even then is searched for by page number, see evict_common.h.
 */
#include "policy.h"

#include "evict_common.h"

struct clock_state {
	uint64_t room;
	uint64_t head; /* index of the oldest */
	uint64_t count;
	struct evict_lost lost;
	struct evict_picked picked;
	uint32_t ring[];
};

static uint64_t room_for(uint64_t capacity_pages)
{
	return 2 * xm_max(capacity_pages, 1ull);
}

static size_t clock_state_bytes(uint64_t capacity_pages)
{
	return sizeof(struct clock_state) + room_for(capacity_pages) * sizeof(uint32_t);
}

static void clock_init(void *state, uint64_t capacity_pages)
{
	struct clock_state *c = state;

	/* the ring itself is not touched: its memory becomes real as it is used */
	memset(c, 0, sizeof(*c));
	c->room = room_for(capacity_pages);
	evict_lost_init(&c->lost);
}

static void push(struct clock_state *c, uint32_t page)
{
	uint64_t at = c->head + c->count;

	c->ring[at >= c->room ? at - c->room : at] = page;
	c->count++;
}

static uint32_t pop(struct clock_state *c)
{
	uint32_t page = c->ring[c->head];

	if (++c->head == c->room)
		c->head = 0;
	c->count--;
	return page;
}

static void clock_inserted(void *state, uint64_t page, int refault)
{
	struct clock_state *c = state;

	evict_lost_saw(&c->lost, page);
	if (c->count == c->room) {
		pop(c);
		evict_lost_restart(&c->lost);
	}
	push(c, evict_narrow(page));
}

static int clock_pick(void *state, const struct xm_evict_view *view, uint64_t *pages, int n, int scan_limit)
{
	struct clock_state *c = state;
	/* once round takes the marks away, twice round finds the pages that have lost theirs */
	uint64_t steps = 2 * c->count;
	int share = evict_lost_share(&c->lost, n);
	int chosen = 0;

	if (share) {
		chosen = evict_lost_find(&c->lost, view, &c->picked, pages, share, scan_limit / 4);
		scan_limit -= scan_limit / 4;
	}
	/* n 0 is housekeeping: only stale entries go */
	while ((chosen < n || n == 0) && c->count && steps && scan_limit > 0) {
		bool forced = c->count > c->room - c->room / 4;
		uint32_t page = pop(c);
		enum xm_page_fact fact;

		steps--;
		scan_limit--;
		if (evict_picked_has(&c->picked, page, pages, chosen))
			continue;
		fact = view->query(view->ctx, page);
		if (fact == XM_PAGE_GONE)
			continue;
		if (n == 0 || fact == XM_PAGE_HELD || (fact == XM_PAGE_REFERENCED && !forced)) {
			push(c, page);
			continue;
		}
		pages[chosen++] = page;
		evict_picked_add(&c->picked, page);
	}
	evict_picked_reset(&c->picked, pages, chosen);
	return chosen;
}

static uint64_t clock_size(void *state)
{
	return ((struct clock_state *)state)->count;
}

const struct xm_evict_ops xm_evict_clock = {
	.name = "clock",
	.state_bytes = clock_state_bytes,
	.init = clock_init,
	.inserted = clock_inserted,
	.pick = clock_pick,
	.size = clock_size,
};
