/* SPDX-License-Identifier: Apache-2.0 */
/* xmem-top.h - what the parts of xmem-top share: finding families and taking samples (xmem-top-sample.c), the
 * screen (xmem-top-screen.c), options and plain output (xmem-top.c). One thread, no locks. */
#ifndef XM_XMEM_TOP_H
#define XM_XMEM_TOP_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/stats.h"

#define TOP_FAMILIES 32
#define TOP_HISTORY 120

/* One process in one sample: levels, and what happened since the sample before. */
struct top_process {
	uint32_t index;
	int32_t pid;
	char comm[16];
	uint64_t resident_pages, remote_pages;
	uint64_t fetch_per_s, zero_per_s, evict_per_s;
	uint64_t fetch_p99_ns; /* since the process began */
};

struct top_rates {
	uint64_t fetch, zero, write, wait;				     /* faults a second */
	uint64_t in_bytes, out_bytes;					     /* a second, over the links */
	uint64_t evict, evict_dirty, evict_clean, evict_zero, evict_refused; /* pages a second */
	uint64_t reclaim_background, reclaim_direct;
	uint64_t fetch_p50_ns, fetch_p99_ns, zero_p50_ns,
		zero_p99_ns;	  /* of the interval; 0: nothing happened */
	int prefetch_hit_percent; /* of the interval; -1: no prefetch */
	unsigned part_percent[XM_PARTS]; /* of the time of the interval's faults; all 0: no faults */
};

struct top_family {
	char name[96]; /* "xmem-4711-0123456789ab" */
	int sock;      /* kept open: the keeper then keeps asking the appliances */
	bool ended;
	struct xm_family *f; /* read-only */
	uint64_t sampled_ns, before_ns;
	struct xm_stats_sum now, before;
	struct top_rates rate;
	struct {
		uint64_t joined_ns, fetch, zero, evict;
	} seen[XM_MAX_PROCS];
	int nprocesses;
	struct top_process process[XM_MAX_PROCS];
	uint64_t history[TOP_HISTORY]; /* faults a second, newest last */
	int nhistory;
};

struct top {
	struct top_family *family[TOP_FAMILIES]; /* in the order they were found */
	int n;
	int denied;	  /* families of other users seen at the last look */
	const char *only; /* NULL, or the name or keeper's pid that was asked for */
};

/* Looks for new families and forgets those that have ended. */
void top_refresh(struct top *t);
void top_sample(struct top *t);
void top_close(struct top *t);
/* "redis-server", or "?" */
const char *top_title(const struct top_family *v);
/* sums over its appliances; false: not known yet */
bool top_appliance_bytes(const struct top_family *v, uint64_t *used, uint64_t *total);

/* The screen until q is pressed; 0 or -errno. */
int top_screen(struct top *t, uint64_t interval_ns);

#endif
