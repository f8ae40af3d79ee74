/* SPDX-License-Identifier: Apache-2.0 */
/* policy_sim.c - see the header. One thread; running out of memory ends the test program. */
#include "policy_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must_alloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	if (!p) {
		perror("calloc");
		exit(1);
	}
	return p;
}

/* ---- a policy --------------------------------------------------------------------------------------- */

struct sim {
	const struct trace *t;
	uint8_t *resident, *marked, *evicted_before;
	uint64_t resident_n;
	uint64_t queries;
	uint64_t *left_as; /* the how many-th victim the page was, from 1; 0: is none, or came back */
};

static enum xm_page_fact query(void *ctx, uint64_t page)
{
	struct sim *s = ctx;

	s->queries++;
	if (page >= s->t->pages || !s->resident[page])
		return XM_PAGE_GONE;
	if (!s->marked[page])
		return XM_PAGE_IDLE;
	s->marked[page] = 0;
	return XM_PAGE_REFERENCED;
}

static void take_away(struct sim *s, uint64_t page)
{
	s->resident[page] = 0;
	s->marked[page] = 0;
	s->evicted_before[page] = 1;
	s->resident_n--;
}

static void make_room(struct sim *s, const struct xm_evict_ops *ops, void *state,
		      const struct sim_config *cfg, struct sim_result *r)
{
	const struct xm_evict_view view = { .query = query, .ctx = s };
	uint64_t *pages = must_alloc((size_t)cfg->batch, sizeof(*pages));
	int n, i;

	s->queries = 0;
	n = ops->pick(state, &view, pages, cfg->batch, cfg->scan_limit);
	if (s->queries > r->queries_max)
		r->queries_max = s->queries;
	for (i = 0; i < n; i++) {
		if (pages[i] >= s->t->pages || !s->resident[pages[i]]) {
			r->wrong = true;
			continue;
		}
		take_away(s, pages[i]);
		r->victims[r->victims_n++] = (uint32_t)pages[i];
		s->left_as[pages[i]] = r->victims_n;
	}
	free(pages);
}

/* A FIFO; the place of one that came back is free only when its turn comes. */
static bool on_probation(const struct sim *s, uint32_t page, const struct sim_config *cfg, const struct sim_result *r)
{
	return s->left_as[page] && r->victims_n - s->left_as[page] < cfg->probation;
}

struct sim_result sim_evict(const struct xm_evict_ops *ops, const struct trace *t,
			    const struct sim_config *cfg)
{
	struct sim_result r = { .victims = must_alloc(t->n + 1, sizeof(uint32_t)) };
	struct sim s = {
		.t = t,
		.resident = must_alloc(t->pages, 1),
		.marked = must_alloc(t->pages, 1),
		.evicted_before = must_alloc(t->pages, 1),
		.left_as = must_alloc(t->pages, sizeof(uint64_t)),
	};
	uint64_t capacity = cfg->capacity - cfg->probation;
	void *state = must_alloc(1, ops->state_bytes(capacity));
	size_t i;

	ops->init(state, capacity);
	for (i = 0; i < t->n && !r.wrong; i++) {
		uint32_t page = t->page[i];

		if (s.resident[page]) {
			s.marked[page] = cfg->marks;
		} else {
			*(on_probation(&s, page, cfg, &r) ? &r.soft : &r.misses) += 1;
			s.left_as[page] = 0;
			if (s.resident_n >= capacity)
				make_room(&s, ops, state, cfg, &r);
			if (s.resident_n >= capacity)
				r.wrong = true;
			s.resident[page] = 1;
			s.resident_n++;
			ops->inserted(state, page, s.evicted_before[page]);
		}
		if (cfg->forgetful && i % 64 == 63)
			take_away(&s, page);
	}
	free(s.resident);
	free(s.marked);
	free(s.evicted_before);
	free(s.left_as);
	free(state);
	return r;
}

void sim_result_free(struct sim_result *r)
{
	free(r->victims);
	r->victims = NULL;
}

/* ---- yardsticks ------------------------------------------------------------------------------------- */

uint64_t sim_fifo_misses(const struct trace *t, uint64_t capacity)
{
	uint8_t *resident = must_alloc(t->pages, 1);
	uint32_t *ring = must_alloc(capacity, sizeof(*ring));
	uint64_t misses = 0;
	size_t i;

	for (i = 0; i < t->n; i++) {
		if (resident[t->page[i]])
			continue;
		if (misses >= capacity)
			resident[ring[misses % capacity]] = 0;
		ring[misses++ % capacity] = t->page[i];
		resident[t->page[i]] = 1;
	}
	free(resident);
	free(ring);
	return misses;
}

/* doubly linked list over page numbers; entry `pages` is the head */
struct lru {
	uint32_t *next, *prev;
};

static void lru_unlink(struct lru *l, uint32_t page)
{
	l->next[l->prev[page]] = l->next[page];
	l->prev[l->next[page]] = l->prev[page];
}

static void lru_front(struct lru *l, uint32_t head, uint32_t page)
{
	l->next[page] = l->next[head];
	l->prev[page] = head;
	l->prev[l->next[head]] = page;
	l->next[head] = page;
}

uint64_t sim_lru_misses(const struct trace *t, uint64_t capacity)
{
	struct lru l = {
		.next = must_alloc(t->pages + 1ul, sizeof(uint32_t)),
		.prev = must_alloc(t->pages + 1ul, sizeof(uint32_t)),
	};
	uint8_t *resident = must_alloc(t->pages, 1);
	uint32_t head = t->pages, victim;
	uint64_t misses = 0, n = 0;
	size_t i;

	l.next[head] = l.prev[head] = head;
	for (i = 0; i < t->n; i++) {
		uint32_t page = t->page[i];

		if (resident[page]) {
			lru_unlink(&l, page);
		} else {
			misses++;
			resident[page] = 1;
			if (n == capacity) {
				victim = l.prev[head];
				lru_unlink(&l, victim);
				resident[victim] = 0;
			} else {
				n++;
			}
		}
		lru_front(&l, head, page);
	}
	free(l.next);
	free(l.prev);
	free(resident);
	return misses;
}

/* Max-heap of (next use, page), old entries are left in it: only the page's latest counts. */
struct heap {
	uint64_t *v; /* next use << 32 | page */
	size_t n;
};

static void heap_push(struct heap *h, uint64_t v)
{
	size_t i = h->n++;

	for (; i && h->v[(i - 1) / 2] < v; i = (i - 1) / 2)
		h->v[i] = h->v[(i - 1) / 2];
	h->v[i] = v;
}

static uint64_t heap_pop(struct heap *h)
{
	uint64_t top = h->v[0], v = h->v[--h->n];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < h->n) {
		if (child + 1 < h->n && h->v[child + 1] > h->v[child])
			child++;
		if (h->v[child] <= v)
			break;
		h->v[i] = h->v[child];
		i = child;
	}
	h->v[i] = v;
	return top;
}

uint64_t sim_opt_misses(const struct trace *t, uint64_t capacity)
{
	uint32_t *use_after = must_alloc(t->n, sizeof(*use_after)); /* index of the same page's next access */
	uint32_t *use = must_alloc(t->pages, sizeof(*use)); /* next access of a resident page, from now */
	uint8_t *resident = must_alloc(t->pages, 1);
	struct heap h = { .v = must_alloc(t->n, sizeof(uint64_t)) };
	uint64_t misses = 0, n = 0;
	size_t i;

	memset(use, 0xff, t->pages * sizeof(*use));
	for (i = t->n; i-- > 0;) {
		use_after[i] = use[t->page[i]];
		use[t->page[i]] = (uint32_t)i;
	}
	for (i = 0; i < t->n; i++) {
		uint32_t page = t->page[i];

		if (!resident[page]) {
			misses++;
			while (n == capacity) {
				uint64_t top = heap_pop(&h);
				uint32_t victim = (uint32_t)top;

				if (!resident[victim] || use[victim] != top >> 32)
					continue;
				resident[victim] = 0;
				n--;
			}
			resident[page] = 1;
			n++;
		}
		use[page] = use_after[i];
		heap_push(&h, (uint64_t)use[page] << 32 | page);
	}
	free(use_after);
	free(use);
	free(resident);
	free(h.v);
	return misses;
}

/* ---- prefetch --------------------------------------------------------------------------------------- */

enum { ABSENT, PRESENT, PREFETCHED };

struct fetcher {
	const struct xm_prefetch_ops *ops;
	void *state;
	uint8_t *where;
	uint32_t *ring;
	uint64_t fetched, capacity;
	struct sim_prefetch_result r;
};

static void fetch(struct fetcher *f, uint32_t page, uint8_t as)
{
	if (f->fetched >= f->capacity) {
		uint32_t old = f->ring[f->fetched % f->capacity];

		if (f->where[old] == PREFETCHED) {
			f->r.wasted++;
			f->ops->waste(f->state, 1);
		}
		f->where[old] = ABSENT;
	}
	f->ring[f->fetched++ % f->capacity] = page;
	f->where[page] = as;
}

static void fault(struct fetcher *f, const struct trace *t, uint32_t page)
{
	struct xm_prefetch_advice a = f->ops->fault(f->state, page);
	int32_t i;

	f->r.faults++;
	fetch(f, page, PRESENT);
	if (a.count < 0 || a.count > XM_PREFETCH_MAX)
		f->r.wrong = true;
	for (i = 1; i <= a.count && !f->r.wrong; i++) {
		int64_t also = (int64_t)page + a.stride * i;

		if (also < 0)
			f->r.wrong = true;
		if (also < 0 || also >= (int64_t)t->pages || f->where[also] != ABSENT)
			continue;
		f->r.prefetched++;
		fetch(f, (uint32_t)also, PREFETCHED);
	}
}

struct sim_prefetch_result sim_prefetch(const struct xm_prefetch_ops *ops, const struct trace *t,
					uint64_t capacity)
{
	struct fetcher f = {
		.ops = ops,
		.state = must_alloc(1, ops->state_bytes() + 1),
		.where = must_alloc(t->pages, 1),
		.ring = must_alloc(capacity, sizeof(uint32_t)),
		.capacity = capacity,
	};
	uint32_t p;
	size_t i;

	ops->init(f.state);
	for (i = 0; i < t->n; i++) {
		p = t->page[i];
		if (f.where[p] == ABSENT) {
			fault(&f, t, p);
		} else if (f.where[p] == PREFETCHED) {
			f.where[p] = PRESENT;
			ops->hit(f.state, 1);
		}
	}
	for (p = 0; p < t->pages; p++)
		f.r.wasted += f.where[p] == PREFETCHED;
	free(f.state);
	free(f.where);
	free(f.ring);
	return f.r;
}
