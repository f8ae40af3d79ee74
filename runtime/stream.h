/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - where a thread reads on: several runs of pages at a time, each with the prefetch policy's state.
 *
 * A program that adds one array to another, merges, or works from both ends of a range faults in several places in turn. Seen
 * as one sequence such faults have no trend. So a fault belongs to the stream that expected it, or to the one whose last
 * run ended nearest to it (within XM_STREAM_NEAR pages, nothing outstanding), and only else begins a stream: with the habits, but not the
 * window, of the one before, so that faults a long stride apart are still seen as one sequence.
 *
 * A long run has a mark: a page in it that is left out. Its touch says that the reader has come so far, and the run behind
 * this one is fetched while it reads on: the handler works beside the program, not in its way.
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

#include "runtime/neighbour.h"
#include "runtime/policy/policy.h"
#include "util.h"

#define XM_STREAM_WAYS 8
#define XM_STREAM_NEAR (2 * XM_PREFETCH_MAX) /* pages: how far the policies, too, follow a run over pages that are there */
#define XM_STREAM_STALE 1024u		     /* faults of the thread; a stream not used for so long is as good as none */
#define XM_STREAM_MARK 4		     /* a run's mark is behind one of so many parts of it */
#define XM_STREAM_GUESS 8 /* pages to fetch along with the first of a range that the program says it reads in order */
#define XM_STREAM_RUNS 4
#define XM_RUN_STALE 128u /* faults of the thread; as above */
#define XM_WRITE_GAP 3	  /* pages that a run of writes passes over: they are writable already, or not far from it */

struct xm_stream {
	uint64_t run_first, run_next; /* from the last demanded page to the one after what was fetched then */
	uint64_t run_pages;	      /* how many pages were prefetched and not yet judged ... */
	uint32_t run_last;	      /* ... of which so many in the last run */
	uint64_t run_mark;	      /* the page in it that was left out, or run_first: none */
	int64_t run_stride;
	/* how many pages came in write-protected: those that are reached before the next fetch, which is the mark's, and those
	 * behind the mark; how many of these were written, or made writable with one that was */
	uint32_t run_protected, run_behind, run_writes;
	bool run_writable;	/* it came in writable and dirty, but for one page to see by */
	bool guess;		/* the policy has not advised the run, and is told of its pages when it was used */
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
	struct xm_neighbour neighbour;
	struct xm_stream way[XM_STREAM_WAYS];
	struct xm_run touch[XM_STREAM_RUNS], write[XM_STREAM_RUNS];
};

/* What to fetch along with a page: from + stride * 1 .. from + stride * count, but for `leave`. */
struct xm_stream_advice {
	int64_t stride;
	int32_t count;
	bool ahead;	/* behind the run that is there, and so after the page, for which somebody waits */
	bool writable;	/* had better come in so */
	bool guess;	/* not the policy's: ... */
	bool neighbour;	/* ... but of neighbour.h */
	uint64_t page;	/* the demanded one */
	uint64_t from;	/* that, or where the run behind which these are ends */
	uint64_t leave; /* the mark; `from`: none */
	uint32_t stamp; /* of the fetch: by it is known that the stream is still the same, and */
	uint32_t written; /* what had been counted then */
};

/* May the run have a mark? Only long ones: who has read less so far may be about to stop. */
static inline bool xm_stream_long(const struct xm_stream_advice *a)
{
	return a->count >= XM_PREFETCH_MAX;
}

/* The k-th page of it, not there before, is left out: it is the mark, if there is none yet, and it is far enough. */
static inline bool xm_stream_marks(struct xm_stream_advice *a, int32_t k)
{
	if (a->leave != a->from || k < a->count / XM_STREAM_MARK)
		return false;
	a->leave = a->from + (uint64_t)(a->stride * k);
	return true;
}

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
		set->way[i].run_pages = set->way[i].run_last = 0;
	set->neighbour.came = 0;
}

/* How the program says that it reads there (pattern.h). */
enum xm_pattern { XM_PATTERN_NONE, XM_PATTERN_SEQUENTIAL, XM_PATTERN_RANDOM };

struct xm_stream_fault {
	uint64_t page;
	bool write;
	bool alone; /* the page above is not on an appliance */
	enum xm_pattern pattern;
};

/* The stream that a fetch belongs to, and what to prefetch along. */
struct xm_stream *xm_stream_fetch(struct xm_streams *set, const struct xm_prefetch_ops *ops, const struct xm_stream_fault *f,
				  struct xm_stream_advice *advice, struct xm_stream_judged *judged);

/* What is fetched now, as far as count says: so many pages that were not there, the demanded one not counted; so many, with
 * it, come in write-protected, up to the mark and behind it. The set may have been let go of since the fetch. */
void xm_stream_began(struct xm_streams *set, struct xm_stream *s, const struct xm_stream_advice *advice, int pages, int protected,
		     int behind);

/* The n pages around page, which came in write-protected, are written, or expected to be. */
void xm_stream_wrote(struct xm_streams *set, uint64_t page, uint64_t n);

/* How many pages to fill with zeros for the first touch of page; how many to make writable for a write to it: doubles to
 * `most`, while such pages follow each other. Below 0: so many, page being the last in memory. */
int64_t xm_stream_touch(struct xm_streams *set, uint64_t page, uint64_t most);
int64_t xm_stream_write(struct xm_streams *set, uint64_t page, uint64_t most);

#endif
