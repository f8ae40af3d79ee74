/* SPDX-License-Identifier: Apache-2.0 */
/*
 * s3fifo.c - small, main and ghost queues (Yang et al., "FIFO queues are all you need for cache
 * eviction", SOSP 2023). Under the caller's lock; allocates nothing; 10.7 bytes per page of
 * capacity.
 *
 *	inserted --> small (10 %) --idle--> victim, remembered in ghost
 *	    |            |
 *	    |        referenced
 *	    |            v
 *	    +------->  main  --idle, count 0--> victim
 *	 refault and   ^  |
 *	 in ghost      +--+ referenced: count + 1; idle: count - 1
 *
 * Most pages come to be asked about without a mark, as the hardware's accessed bits are not ours
 * to read: then the ghost queue does the work, since a page that comes back soon after its
 * eviction goes straight to main.
 *
 * small and main are lists of chunks out of one pool, because either may hold nearly everything
 * (small before the first shortage, main afterwards) and two rings would cost twice. All but the
 * first and the last chunk of a queue are full, so room / CHUNK + 4 chunks always suffice.
 *
 * ghost: buckets of 16 fingerprints of 16 bits, the youngest first; the oldest of the bucket falls
 * out. That is a FIFO only on average, and one lookup in 4096 is a false hit: a cold page in main,
 * which leaves as it is idle.
 */
#include "policy.h"

#include "evict_common.h"

#define CHUNK 64
#define NONE UINT32_MAX
#define COUNT_MAX 3u /* two bits */
#define GHOST_WAYS 16

struct chunk {
	uint32_t next;
	uint32_t page[CHUNK];
	uint8_t count[CHUNK / 4];
};

struct queue {
	uint64_t n;
	uint32_t first, last;	    /* chunks; NONE when n is 0 */
	uint32_t first_at, last_at; /* first used entry of the first, first free entry of the last */
};

struct s3fifo_state {
	uint64_t room; /* of small and main together */
	uint64_t small_target;
	struct queue small, main;
	uint32_t free_chunk;  /* list of returned chunks */
	uint32_t fresh_chunk; /* chunks from here on were never used: their memory is not touched yet */
	uint32_t chunks;
	uint64_t buckets;
	struct evict_lost lost;
	struct evict_picked picked;
	/* followed by struct chunk [chunks], then uint16_t ghost[buckets][GHOST_WAYS] */
	struct chunk chunk[];
};

static uint64_t room_for(uint64_t capacity_pages)
{
	return 2 * xm_max(capacity_pages, 1ull);
}

static uint64_t chunks_for(uint64_t capacity_pages)
{
	return room_for(capacity_pages) / CHUNK + 4;
}

/* as many ghosts as main is meant to hold pages: 90 % */
static uint64_t buckets_for(uint64_t capacity_pages)
{
	return capacity_pages * 9 / 10 / GHOST_WAYS + 1;
}

static uint16_t *ghost_of(struct s3fifo_state *s)
{
	return (uint16_t *)(void *)(s->chunk + s->chunks);
}

static size_t s3fifo_state_bytes(uint64_t capacity_pages)
{
	return sizeof(struct s3fifo_state) + chunks_for(capacity_pages) * sizeof(struct chunk) +
	       buckets_for(capacity_pages) * GHOST_WAYS * sizeof(uint16_t);
}

static void s3fifo_init(void *state, uint64_t capacity_pages)
{
	struct s3fifo_state *s = state;

	memset(s, 0, sizeof(*s));
	s->room = room_for(capacity_pages);
	s->small_target = capacity_pages / 10;
	s->small = s->main = (struct queue){ .first = NONE, .last = NONE };
	s->free_chunk = NONE;
	s->chunks = (uint32_t)chunks_for(capacity_pages);
	s->buckets = buckets_for(capacity_pages);
	evict_lost_init(&s->lost);
	memset(ghost_of(s), 0, s->buckets * GHOST_WAYS * sizeof(uint16_t));
}

/* ---- queues ----------------------------------------------------------------------------------------- */

static uint32_t chunk_get(struct s3fifo_state *s)
{
	uint32_t i = s->free_chunk;

	if (i != NONE) {
		s->free_chunk = s->chunk[i].next;
	} else {
		xm_assert(s->fresh_chunk < s->chunks);
		i = s->fresh_chunk++;
	}
	s->chunk[i].next = NONE;
	return i;
}

static void push(struct s3fifo_state *s, struct queue *q, uint32_t page, unsigned count)
{
	unsigned shift;
	uint8_t *pack;

	if (q->n == 0 || q->last_at == CHUNK) {
		uint32_t i = chunk_get(s);

		if (q->n == 0) {
			q->first = i;
			q->first_at = 0;
		} else {
			s->chunk[q->last].next = i;
		}
		q->last = i;
		q->last_at = 0;
	}
	s->chunk[q->last].page[q->last_at] = page;
	pack = &s->chunk[q->last].count[q->last_at / 4];
	shift = q->last_at % 4 * 2;
	*pack = (uint8_t)((*pack & ~(3u << shift)) | count << shift);
	q->last_at++;
	q->n++;
}

static uint32_t pop(struct s3fifo_state *s, struct queue *q, unsigned *count)
{
	struct chunk *c = &s->chunk[q->first];
	uint32_t page = c->page[q->first_at];
	uint32_t old = q->first;

	*count = c->count[q->first_at / 4] >> (q->first_at % 4 * 2) & 3u;
	q->n--;
	if (++q->first_at == CHUNK || q->n == 0) {
		q->first = c->next;
		q->first_at = 0;
		c->next = s->free_chunk;
		s->free_chunk = old;
		if (q->n == 0)
			q->first = q->last = NONE;
	}
	return page;
}

/* ---- ghost ------------------------------------------------------------------------------------------ */

static uint16_t *ghost_bucket(struct s3fifo_state *s, uint64_t page, uint16_t *fingerprint)
{
	uint64_t h = evict_hash(page);

	/* 0 means empty */
	*fingerprint = (uint16_t)(h & 0xffff ? h & 0xffff : 1);
	return ghost_of(s) + (uint64_t)(((unsigned __int128)h * s->buckets) >> 64) * GHOST_WAYS;
}

/* Takes the page out; whether it was there. */
static bool ghost_remove(struct s3fifo_state *s, uint64_t page)
{
	uint16_t print;
	uint16_t *b = ghost_bucket(s, page, &print);
	int i;

	for (i = 0; i < GHOST_WAYS && b[i]; i++) {
		if (b[i] != print)
			continue;
		memmove(b + i, b + i + 1, (size_t)(GHOST_WAYS - 1 - i) * sizeof(*b));
		b[GHOST_WAYS - 1] = 0;
		return true;
	}
	return false;
}

static void ghost_add(struct s3fifo_state *s, uint64_t page)
{
	uint16_t print;
	uint16_t *b = ghost_bucket(s, page, &print);

	ghost_remove(s, page);
	memmove(b + 1, b, (GHOST_WAYS - 1) * sizeof(*b));
	b[0] = print;
}

/* ---- policy ----------------------------------------------------------------------------------------- */

static void s3fifo_inserted(void *state, uint64_t page, int refault)
{
	struct s3fifo_state *s = state;
	bool known = refault && ghost_remove(s, page);

	evict_lost_saw(&s->lost, page);
	if (s->small.n + s->main.n == s->room) {
		unsigned count;

		pop(s, s->small.n ? &s->small : &s->main, &count);
		evict_lost_restart(&s->lost);
	}
	push(s, known ? &s->main : &s->small, evict_narrow(page), 0);
}

/* How one pick goes about it. */
struct scan {
	uint64_t small_steps, main_steps; /* bounds: every page looked at often enough to lose its marks */
	int steps;
	bool housekeeping; /* only drop what is gone */
};

static struct queue *next_queue(struct s3fifo_state *s, const struct scan *scan)
{
	bool small = s->small.n && scan->small_steps;
	bool main = s->main.n && scan->main_steps;

	if (small && (s->small.n > s->small_target || !main))
		return &s->small;
	return main ? &s->main : NULL;
}

/* One step on the queue's oldest page; true: *out is a victim */
static bool step(struct s3fifo_state *s, const struct xm_evict_view *view, struct scan *scan, struct queue *q,
		 uint32_t page, unsigned count)
{
	bool forced = s->small.n + s->main.n >= s->room - s->room / 4;
	enum xm_page_fact fact = view->query(view->ctx, page);

	if (fact == XM_PAGE_GONE)
		return false;
	if (fact == XM_PAGE_HELD || scan->housekeeping) {
		push(s, q, page, count);
		return false;
	}
	if (fact == XM_PAGE_REFERENCED && !forced) {
		if (q == &s->small)
			scan->main_steps += COUNT_MAX + 2;
		else
			count = xm_min(count + 1, COUNT_MAX);
		push(s, &s->main, page, count);
		return false;
	}
	if (count && !forced) {
		push(s, q, page, count - 1);
		return false;
	}
	if (q == &s->small)
		ghost_add(s, page);
	return true;
}

static int s3fifo_pick(void *state, const struct xm_evict_view *view, uint64_t *pages, int n, int scan_limit)
{
	struct s3fifo_state *s = state;
	struct scan scan = {
		.small_steps = s->small.n,
		.main_steps = s->main.n * (COUNT_MAX + 2),
		.steps = scan_limit,
		.housekeeping = n == 0,
	};
	int share = evict_lost_share(&s->lost, n);
	struct queue *q;
	int chosen = 0;

	if (share) {
		chosen = evict_lost_find(&s->lost, view, &s->picked, pages, share, scan_limit / 4);
		scan.steps -= scan_limit / 4;
	}
	if (scan.housekeeping)
		scan.main_steps = s->main.n;
	while ((chosen < n || scan.housekeeping) && scan.steps > 0 && (q = next_queue(s, &scan))) {
		unsigned count;
		uint32_t page = pop(s, q, &count);

		scan.steps--;
		if (q == &s->small)
			scan.small_steps--;
		else
			scan.main_steps--;
		if (evict_picked_has(&s->picked, page, pages, chosen))
			continue;
		if (!step(s, view, &scan, q, page, count))
			continue;
		pages[chosen++] = page;
		evict_picked_add(&s->picked, page);
	}
	evict_picked_reset(&s->picked, pages, chosen);
	return chosen;
}

static uint64_t s3fifo_size(void *state)
{
	struct s3fifo_state *s = state;

	return s->small.n + s->main.n;
}

const struct xm_evict_ops xm_evict_s3fifo = {
	.name = "s3fifo",
	.state_bytes = s3fifo_state_bytes,
	.init = s3fifo_init,
	.inserted = s3fifo_inserted,
	.pick = s3fifo_pick,
	.size = s3fifo_size,
};
