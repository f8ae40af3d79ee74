/* SPDX-License-Identifier: Apache-2.0 */
/* registry.c - policies by name. Constant tables; any thread. */
#include "policy.h"

#include <string.h>

#include "util.h"

static const struct xm_evict_ops *const evict[] = { &xm_evict_s3fifo, &xm_evict_clock };
static const struct xm_prefetch_ops *const prefetch[] = { &xm_prefetch_majority, &xm_prefetch_stride,
							  &xm_prefetch_none };

/* in the order of the tables above: the unit tests compare */
const char *const xm_evict_names[] = { "s3fifo", "clock", NULL };
const char *const xm_prefetch_names[] = { "majority", "stride", "none", NULL };

const struct xm_evict_ops *xm_evict_find(const char *name)
{
	size_t i;

	for (i = 0; i < XM_ARRAY_SIZE(evict); i++)
		if (strcmp(evict[i]->name, name) == 0)
			return evict[i];
	return NULL;
}

const struct xm_prefetch_ops *xm_prefetch_find(const char *name)
{
	size_t i;

	for (i = 0; i < XM_ARRAY_SIZE(prefetch); i++)
		if (strcmp(prefetch[i]->name, name) == 0)
			return prefetch[i];
	return NULL;
}
