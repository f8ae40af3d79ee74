/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - where a thread reads on: several runs of pages at a time, each with the prefetch policy's state.
 *
 * A program that adds one array to another, merges, or works from both ends of a range faults in several places in turn. Seen
 * as one sequence such faults have no trend. So a fault belongs to the stream that expected it, or to the one whose last
 * run ended nearest to it (within XM_STREAM_NEAR pages, nothing outstanding), and only else begins a stream: with the habits, but not the
 * window, of the one before, so that faults a long stride apart are still seen as one sequence.
 *
 * Of XM_STREAM_WAYS streams that one goes which was seen only once (as each fault of a random reader is), else the one
 * that was not used for longest.
 *
 * One set for a faulting thread, found by a hash of its id. No locks, but `busy`: who does not get it goes on without.
 */
#ifndef XM_STREAM_H
#define XM_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/policy/policy.h"
#include "util.h"

#define XM_STREAM_WAYS 8
#define XM_STREAM_NEAR (2 * XM_PREFETCH_MAX) /* pages: how far the policies, too, follow a run over pages that are there */
#define XM_STREAM_STALE 1024u		     /* faults of the thread; a stream not used for so long is as good as none */
#define XM_STREAM_RUNS 4
#define XM_RUN_STALE 128u /* faults of the thread; as above */
#define XM_WRITE_GAP 3	  /* pages that a run of writes passes over: they are writable already, or not far from it */

struct xm_stream {
	uint64_t run_first, run_next; /* last run: from the demanded page to the one after it ... */
	uint64_t run_pages;	      /* ... and how many pages were prefetched in it */
	int64_t run_stride;
	uint32_t run_protected; /* how many of its pages, the demanded one included, came in write-protected */
	uint32_t run_writes;	/* how many of these were written, or made writable with one that was */
	bool run_writable;	/* it came in writable and dirty, but for one page to see by */
	uint32_t fetches;	/* 0: unused */
	uint32_t used;		/* the set's clock at the last of them */
	uint64_t prefetch[512 / 8];
};

/* Pages that need no fetch, in order, up or down: the two pages behind the last run, and how long it was. */
struct xm_run {
	uint64_t up, down, pages;
	uint32_t used;
};

/* All zeros before the first use. */
struct xm_streams {
	uint32_t busy; /* atomic */
	uint32_t clock;
	struct xm_stream *last;
	struct xm_stream way[XM_STREAM_WAYS];
	struct xm_run touch[XM_STREAM_RUNS], write[XM_STREAM_RUNS];
};

/* What became of pages that were prefetched before, for the statistics. */
struct xm_stream_judged {
	uint64_t hit, waste;
};

static inline bool xm_streams_try(struct xm_streams *set)
{
	uint32_t free = 0;

	return __atomic_compare_exchange_n(&set->busy, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void xm_streams_put(struct xm_streams *set)
{
	xm_store(&set->busy, 0);
}

/* In the child of a fork, which goes on with the habits; what is outstanding the parent judges. */
static inline void xm_streams_forked(struct xm_streams *set)
{
	set->busy = 0;
	for (int i = 0; i < XM_STREAM_WAYS; i++)
		set->way[i].run_pages = 0;
}

/* The stream that a fetch of page belongs to, and what to prefetch along. */
struct xm_stream *xm_stream_fetch(struct xm_streams *set, const struct xm_prefetch_ops *ops, uint64_t page,
				  struct xm_prefetch_advice *advice, struct xm_stream_judged *judged);

/* Whether what is prefetched now should come in writable; write: the fault was a write. */
bool xm_stream_writes(const struct xm_stream *s, bool write);

/* The run that is fetched now: from page on, as far as advice says, of which n - 1 pages were not there. */
void xm_stream_began(struct xm_stream *s, uint64_t page, const struct xm_prefetch_advice *advice, int n, int protected,
		     bool writable);

/* The n pages around page, which came in write-protected, are written, or expected to be. */
void xm_stream_wrote(struct xm_streams *set, uint64_t page, uint64_t n);

/* How many pages to fill with zeros for the first touch of page; how many to make writable for a write to it: doubles to
 * `most`, while such pages follow each other. Below 0: so many, page being the last in memory. */
int64_t xm_stream_touch(struct xm_streams *set, uint64_t page, uint64_t most);
int64_t xm_stream_write(struct xm_streams *set, uint64_t page, uint64_t most);

#endif
