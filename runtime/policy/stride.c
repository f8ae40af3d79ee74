/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stride.c - prefetches after two faults in a row at the same distance. The window starts at 2
 * pages, doubles to 64 with each fault that continues the run, and halves with waste; any other
 * fault ends the run (majority.c forgives stray ones). State: one struct, one thread at a time.
 */
#include "policy.h"

#include "prefetch_common.h"

struct stride_state {
	struct prefetch_run run;
	int64_t candidate; /* the last distance, waiting to be seen again; 0: none */
};

static size_t stride_state_bytes(void)
{
	return sizeof(struct stride_state);
}

static void stride_init(void *state)
{
	memset(state, 0, sizeof(struct stride_state));
}

static struct xm_prefetch_advice stride_fault(void *state, uint64_t page)
{
	struct stride_state *s = state;
	struct prefetch_run *r = &s->run;
	int64_t delta;

	if (page >= PAGE_LIMIT)
		return (struct xm_prefetch_advice){ .stride = 1, .count = 0 };
	delta = (int64_t)page - (int64_t)r->last;
	if (!r->has_last) {
		r->has_last = true;
	} else if (delta == 0) {
		/* the same page again (evicted at once, or raced): says nothing about the direction */
	} else if (prefetch_run_continues(r, delta)) {
		prefetch_run_grow(r);
	} else if (delta == s->candidate) {
		r->stride = delta;
		r->window = WINDOW_MIN;
		r->wasted = 0;
	} else {
		s->candidate = delta;
		r->stride = 0;
		r->window = 0;
	}
	r->last = page;
	return prefetch_run_advise(r, page);
}

static void stride_hit(void *state, uint64_t n)
{
	/* a fault behind the run confirms it; single hits add nothing */
}

static void stride_waste(void *state, uint64_t n)
{
	prefetch_run_waste(&((struct stride_state *)state)->run, n);
}

const struct xm_prefetch_ops xm_prefetch_stride = {
	.name = "stride",
	.state_bytes = stride_state_bytes,
	.init = stride_init,
	.fault = stride_fault,
	.hit = stride_hit,
	.waste = stride_waste,
};
