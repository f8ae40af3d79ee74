/* SPDX-License-Identifier: Apache-2.0 */
/*
 * s3fifo.c - small, main and ghost queues (Yang et al., "FIFO queues are all you need for cache
 * eviction", SOSP 2023), with what refaults tell in the place of what accessed bits would. Under
 * the caller's lock; allocates nothing; 11.2 bytes per page of capacity.
 *
 *	inserted --> small (10 %) --idle--> victim ----------> ghost
 *	    |            |                                      ^
 *	    |        referenced                                 | level + 1
 *	    |            v                                      |
 *	    +------->  main  --idle, no round left--> victim ---+
 *	 refault, in     ^  |
 *	 ghost from      +--+ referenced: a round more; idle: a round less
 *	 small
 *
 * Most pages come to be asked about without a mark, as the hardware's accessed bits are not ours
 * to read. What is seen is which pages come back soon after they left: those are worth more, and
 * how much is remembered with the ghost. A page has level 1 after its first return, and one more
 * each time it comes back after a stay in main, up to 4; level L stays for 2^(L-1) rounds of main.
 * Who left main returns by way of small: straight to main, a loop over a little more than there is
 * room for would find nothing, as with any FIFO. Against the published policy without marks: zipf
 * 0.99 at 10, 25, 50 % of the pages misses 30, 19.5, 11.8 % of accesses instead of 33, 23, 13.6
 * (LRU: 34, 21, 10.9); loops and scans the same; after a shift of the hot set still better. The
 * table of tests/unit/test_evict.c has today's figures.
 *
 * The worth of an entry is one number of four bits: 0 without a level, else 2^(L-1) + rounds left.
 *
 * small and main are lists of chunks out of one pool, because either may hold nearly everything
 * (small before the first shortage, main afterwards) and two rings would cost twice. All but the
 * first and the last chunk of a queue are full, so room / CHUNK + 4 chunks always suffice.
 *
 * ghost: buckets of 16 words, the youngest first: fingerprint of 13 bits, whether it left main,
 * level - 1. The oldest of the bucket falls out. That is a FIFO only on average, and one lookup in
 * 512 is a false hit: a cold page in main, which leaves as it is idle. Sixteen neighbours share a
 * bucket: those that left together are remembered, and stay when they come back, together, so that
 * what a loop keeps is not a page here and there, by which every run would be broken.
 */
#include "policy.h"

#include "evict_common.h"

#define CHUNK 64
#define NONE UINT32_MAX
#define LEVEL_MAX 4u
#define WORTH_MAX 15u  /* four bits: level 4, 7 rounds left */
#define ROUNDS_MAX 10u /* after so many looks an idle page of main leaves, whatever its worth and marks */
#define GHOST_WAYS 16

struct chunk {
	uint32_t next;
	uint32_t page[CHUNK];
	uint8_t worth[CHUNK / 2];
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

/* 0: it has not come back yet */
static unsigned level_of(unsigned worth)
{
	return worth ? 32u - (unsigned)__builtin_clz(worth) : 0;
}

static unsigned rounds_left(unsigned worth)
{
	return worth ? worth - (1u << (level_of(worth) - 1)) : 0;
}

static void push(struct s3fifo_state *s, struct queue *q, uint32_t page, unsigned worth)
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
	pack = &s->chunk[q->last].worth[q->last_at / 2];
	shift = q->last_at % 2 * 4;
	*pack = (uint8_t)((*pack & ~(15u << shift)) | worth << shift);
	q->last_at++;
	q->n++;
}

static uint32_t pop(struct s3fifo_state *s, struct queue *q, unsigned *worth)
{
	struct chunk *c = &s->chunk[q->first];
	uint32_t page = c->page[q->first_at];
	uint32_t old = q->first;

	*worth = c->worth[q->first_at / 2] >> (q->first_at % 2 * 4) & 15u;
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

#define PRINT_BITS 0x1fffu
#define FROM_MAIN 0x2000u
#define LEVEL_SHIFT 14

static uint16_t *ghost_bucket(struct s3fifo_state *s, uint64_t page, uint16_t *fingerprint)
{
	uint64_t h = evict_hash(page);

	/* a word of 0 means empty */
	*fingerprint = (uint16_t)(h & PRINT_BITS ? h & PRINT_BITS : 1);
	h = evict_hash(page / GHOST_WAYS);
	return ghost_of(s) + (uint64_t)(((unsigned __int128)h * s->buckets) >> 64) * GHOST_WAYS;
}

/* Takes the page out; its word, or 0 if it was not there. */
static uint16_t ghost_remove(struct s3fifo_state *s, uint64_t page)
{
	uint16_t print, word;
	uint16_t *b = ghost_bucket(s, page, &print);
	int i;

	for (i = 0; i < GHOST_WAYS && b[i]; i++) {
		if ((b[i] & PRINT_BITS) != print)
			continue;
		word = b[i];
		memmove(b + i, b + i + 1, (size_t)(GHOST_WAYS - 1 - i) * sizeof(*b));
		b[GHOST_WAYS - 1] = 0;
		return word;
	}
	return 0;
}

static unsigned ghost_level(uint16_t word)
{
	return (word >> LEVEL_SHIFT) + 1u;
}

static void ghost_add(struct s3fifo_state *s, uint64_t page, unsigned level, bool from_main)
{
	uint16_t print;
	uint16_t *b = ghost_bucket(s, page, &print);

	ghost_remove(s, page);
	memmove(b + 1, b, (GHOST_WAYS - 1) * sizeof(*b));
	b[0] = (uint16_t)(print | (from_main ? FROM_MAIN : 0) | (level - 1) << LEVEL_SHIFT);
}

/* ---- policy ----------------------------------------------------------------------------------------- */

static void s3fifo_inserted(void *state, uint64_t page, int refault)
{
	struct s3fifo_state *s = state;
	uint16_t ghost = refault ? ghost_remove(s, page) : 0;
	unsigned worth = ghost ? 1u << (ghost_level(ghost) - 1) : 0;
	bool to_main = ghost && !(ghost & FROM_MAIN);

	evict_lost_saw(&s->lost, page);
	if (s->small.n + s->main.n == s->room) {
		unsigned old;

		pop(s, s->small.n ? &s->small : &s->main, &old);
		evict_lost_restart(&s->lost);
	}
	/* main: as many rounds as its level has; small: the level is kept for the time after */
	push(s, to_main ? &s->main : &s->small, evict_narrow(page), to_main ? 2 * worth - 1 : worth);
}

/* How one pick goes about it. */
struct scan {
	uint64_t small_steps, main_steps; /* bounds: every page looked at often enough to lose its marks */
	int steps;
	bool housekeeping; /* only drop what is gone */
	bool tired;	   /* half of the steps, and no victim: rounds do not count any more */
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
		 uint32_t page, unsigned worth)
{
	bool forced = s->small.n + s->main.n >= s->room - s->room / 4;
	enum xm_page_fact fact = view->query(view->ctx, page);

	if (fact == XM_PAGE_GONE)
		return false;
	if (fact == XM_PAGE_HELD || scan->housekeeping) {
		push(s, q, page, worth);
		return false;
	}
	if (fact == XM_PAGE_REFERENCED && !forced) {
		if (q == &s->small)
			scan->main_steps += ROUNDS_MAX;
		push(s, &s->main, page, xm_min(worth + 1, WORTH_MAX));
		return false;
	}
	if (q == &s->small) {
		ghost_add(s, page, xm_max(level_of(worth), 1u), false);
		return true;
	}
	if (rounds_left(worth) && !forced && !scan->tired) {
		push(s, q, page, worth - 1);
		return false;
	}
	ghost_add(s, page, xm_min(level_of(worth) + 1, LEVEL_MAX), true);
	return true;
}

static int s3fifo_pick(void *state, const struct xm_evict_view *view, uint64_t *pages, int n, int scan_limit)
{
	struct s3fifo_state *s = state;
	struct scan scan = {
		.small_steps = s->small.n,
		.main_steps = s->main.n * ROUNDS_MAX,
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
		unsigned worth;
		uint32_t page = pop(s, q, &worth);

		scan.tired = !chosen && scan.steps <= scan_limit / 2;
		scan.steps--;
		if (q == &s->small)
			scan.small_steps--;
		else
			scan.main_steps--;
		if (evict_picked_has(&s->picked, page, pages, chosen))
			continue;
		if (!step(s, view, &scan, q, page, worth))
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
