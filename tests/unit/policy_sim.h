/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy_sim.h - replays a trace of page accesses against an eviction policy, and against LRU,
 * FIFO and Belady's optimum for comparison. No clock and no randomness: a trace gives one result.
 */
#ifndef XM_TEST_POLICY_SIM_H
#define XM_TEST_POLICY_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/policy/policy.h"
#include "traces.h"

struct sim_config {
	uint64_t capacity;
	int batch; /* victims asked for at each shortage */
	int scan_limit;
	bool marks;	/* whether a hit leaves the mark that query() reports as REFERENCED */
	/* of the capacity, pages that the policy has taken away and that are still here: an access brings one back
	 * without a miss, and the policy hears of it as of a refault */
	uint64_t probation;
	bool forgetful; /* every 64th access the page is taken away by other means than the policy */
};

struct sim_result {
	uint64_t misses;
	uint64_t soft; /* accesses that found their page on probation */
	uint64_t victims_n;
	uint32_t *victims;    /* in order of decision; sim_result_free() */
	uint64_t queries_max; /* of one pick */
	bool wrong; /* the policy named a page twice in one pick, or one that is not resident, or none */
};

struct sim_result sim_evict(const struct xm_evict_ops *ops, const struct trace *t,
			    const struct sim_config *cfg);
void sim_result_free(struct sim_result *r);

uint64_t sim_fifo_misses(const struct trace *t, uint64_t capacity);
uint64_t sim_lru_misses(const struct trace *t, uint64_t capacity);
/* evicts what is used again last: no policy misses less */
uint64_t sim_opt_misses(const struct trace *t, uint64_t capacity);

struct sim_prefetch_result {
	uint64_t faults;     /* accesses that found no page */
	uint64_t prefetched; /* pages fetched along */
	uint64_t wasted;     /* of those, left untouched */
	bool wrong;	     /* advice beyond XM_PREFETCH_MAX or with page numbers below 0 */
};

/* Memory is a FIFO of `capacity` pages; advice beyond the trace's pages is ignored, as the mover does. */
struct sim_prefetch_result sim_prefetch(const struct xm_prefetch_ops *ops, const struct trace *t,
					uint64_t capacity);

#endif
