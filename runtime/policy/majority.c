/* SPDX-License-Identifier: Apache-2.0 */
/*
 * majority.c - prefetches along the distance that most of the recent faults agree on (Leap: Al
 * Maruf and Chowdhury, ATC 2020). A Boyer-Moore vote over the youngest 8, then 16, then 32
 * distances: the shortest history with a majority wins, so that a new trend is found fast and a
 * few stray faults do not end an old one. The window doubles when a fault continues the run, or
 * starts elsewhere at the same distance after half of the last advice was hit; it shrinks with
 * waste and while there is no trend. State: one struct (under 400 bytes), one thread at a time.
 *
 * Differs from the paper in two points. Pages that were prefetched do not fault here, so a fault
 * behind an advised run is entered as one step of that run, not as the long distance that it is.
 * And a stray fault gets no advice: the run's end is remembered apart from the last fault, so the
 * next fault of the run still finds it.
 */
#include "policy.h"

#include "prefetch_common.h"

#define HISTORY 32
#define VOTE_MIN 8

struct majority_state {
	struct prefetch_run run;
	uint64_t anchor; /* the last fault that belonged to the run; advice started there */
	int64_t delta[HISTORY];
	uint32_t next; /* where the next delta goes */
	uint32_t n;
	int32_t hits; /* since the last advice */
};

_Static_assert(sizeof(struct majority_state) < 512, "one per stream of a thread");

static size_t majority_state_bytes(void)
{
	return sizeof(struct majority_state);
}

static void majority_init(void *state)
{
	memset(state, 0, sizeof(struct majority_state));
}

static int64_t recent(const struct majority_state *s, uint32_t ago)
{
	return s->delta[(s->next + HISTORY - 1 - ago) % HISTORY];
}

/* the distance that more than half of the youngest n agree on; 0: none */
static int64_t vote(const struct majority_state *s, uint32_t n)
{
	uint32_t balance = 0, votes = 0, i;
	int64_t candidate = 0;

	for (i = 0; i < n; i++) {
		if (balance == 0)
			candidate = recent(s, i);
		balance += recent(s, i) == candidate ? 1 : -1u;
	}
	for (i = 0; i < n; i++)
		votes += recent(s, i) == candidate;
	return votes > n / 2 ? candidate : 0;
}

static int64_t find_trend(const struct majority_state *s)
{
	uint32_t n;

	/* two equal distances are enough at the very start: a young thread should not wait for 8 */
	if (s->n < VOTE_MIN)
		return s->n >= 2 ? vote(s, s->n) : 0;
	for (n = VOTE_MIN; n <= s->n; n *= 2) {
		int64_t trend = vote(s, n);

		if (trend)
			return trend;
	}
	return 0;
}

/* Moves the state to what the history says after a fault; whether the fault belongs to the run (now). */
static bool follow(struct majority_state *s, int64_t delta, bool continues)
{
	struct prefetch_run *r = &s->run;
	int64_t trend = find_trend(s);

	if (trend == 0) {
		/* keep the direction: a short disturbance then costs half the window, not all of it */
		r->window = r->window / 2 < WINDOW_MIN ? 0 : r->window / 2;
		if (r->window == 0)
			r->stride = 0;
		return continues && r->stride;
	}
	if (trend != r->stride) {
		r->stride = trend;
		r->window = WINDOW_MIN;
		r->wasted = 0;
		return delta == trend;
	}
	if (continues || (delta == trend && s->hits >= (r->advised + 1) / 2))
		prefetch_run_grow(r);
	return continues || delta == trend;
}

static struct xm_prefetch_advice majority_fault(void *state, uint64_t page)
{
	const struct xm_prefetch_advice nothing = { .stride = 1, .count = 0 };
	struct majority_state *s = state;
	struct prefetch_run *r = &s->run;
	bool continues, on_run;
	int64_t delta;

	if (page >= PAGE_LIMIT)
		return nothing;
	delta = (int64_t)page - (int64_t)r->last;
	r->last = page;
	if (!r->has_last) {
		r->has_last = true;
		s->anchor = page;
		return nothing;
	}
	/* the same page again (evicted at once, or raced): says nothing about the direction */
	if (delta == 0)
		return nothing;
	continues = prefetch_run_continues(r, (int64_t)page - (int64_t)s->anchor);
	s->delta[s->next] = continues ? r->stride : delta;
	s->next = (s->next + 1) % HISTORY;
	s->n = xm_min(s->n + 1, (uint32_t)HISTORY);
	on_run = follow(s, delta, continues);
	if (!on_run)
		return nothing;
	s->hits = 0;
	s->anchor = page;
	return prefetch_run_advise(r, page);
}

static void majority_hit(void *state, uint64_t n)
{
	struct majority_state *s = state;

	s->hits = (int32_t)xm_min((uint64_t)s->hits + n, (uint64_t)XM_PREFETCH_MAX);
}

static void majority_waste(void *state, uint64_t n)
{
	prefetch_run_waste(&((struct majority_state *)state)->run, n);
}

const struct xm_prefetch_ops xm_prefetch_majority = {
	.name = "majority",
	.state_bytes = majority_state_bytes,
	.init = majority_init,
	.fault = majority_fault,
	.hit = majority_hit,
	.waste = majority_waste,
};
