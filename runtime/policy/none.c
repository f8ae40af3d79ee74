/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - never prefetches. No state. */
#include "policy.h"

static size_t none_state_bytes(void)
{
	return 0;
}

static void none_init(void *state)
{
}

static struct xm_prefetch_advice none_fault(void *state, uint64_t page)
{
	return (struct xm_prefetch_advice){ .stride = 1, .count = 0 };
}

static void none_told(void *state, uint64_t n)
{
}

const struct xm_prefetch_ops xm_prefetch_none = {
	.name = "none",
	.state_bytes = none_state_bytes,
	.init = none_init,
	.fault = none_fault,
	.hit = none_told,
	.waste = none_told,
};
