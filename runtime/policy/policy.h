/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.h - eviction and prefetch decisions, separated from what executes them.
 *
 * A policy sees page indices (page number within the external range) and facts that the caller hands it;
 * it makes no system call, allocates nothing after init, has no clock and no randomness of its own, so that a
 * recorded trace replays to the same decisions. State lives in one block of memory that the caller provides
 * (state_bytes for a capacity), which is local and is copied by fork.
 * Chosen by name at run time. Not thread-safe: the caller serialises (evict: the reclaim lock; prefetch: one
 * state per stream of a thread).
 */
#ifndef XM_POLICY_H
#define XM_POLICY_H

#include <stddef.h>
#include <stdint.h>

/* What the mover tells about a candidate when the policy asks. */
enum xm_page_fact {
	XM_PAGE_GONE = 0,	/* not resident any more: forget it */
	XM_PAGE_IDLE = 1,	/* resident, not referenced since it was last asked about */
	XM_PAGE_REFERENCED = 2,	/* resident and referenced since; the asking clears the mark */
	XM_PAGE_HELD = 3,	/* resident but may not be evicted now (pinned, busy) */
};

struct xm_evict_view {
	enum xm_page_fact (*query)(void *ctx, uint64_t page);
	void *ctx;
};

struct xm_evict_ops {
	const char *name;
	size_t (*state_bytes)(uint64_t capacity_pages);
	void (*init)(void *state, uint64_t capacity_pages);
	/* page became resident: by first touch or fetch (refault tells whether it had been evicted before) */
	void (*inserted)(void *state, uint64_t page, int refault);
	/* Chooses up to n victims, best first, fewer only if it looked at every page it knows (or at
	 * scan_limit candidates). A chosen page is forgotten by the policy (ghost history aside): the mover
	 * calls inserted() again for one that it could not evict. Pages may be stale: query tells. */
	int (*pick)(void *state, const struct xm_evict_view *view, uint64_t *pages, int n, int scan_limit);
	/* how many pages the policy believes resident (upper bound; stale entries count) */
	uint64_t (*size)(void *state);
};

/* clock: second chance over a ring buffer of inserted pages. s3fifo: small/main/ghost queues (Yang et al.,
 * "FIFO queues are all you need for cache eviction", SOSP 2023): small = 10 %, ghost = as many as main.
 * Both must stay correct when more pages than capacity_pages are inserted (the oldest entry is then handed
 * out by the next pick, never silently lost: the ring keeps room for 2 * capacity and pick is forced). */
extern const struct xm_evict_ops xm_evict_clock, xm_evict_s3fifo;
const struct xm_evict_ops *xm_evict_find(const char *name); /* NULL: unknown */
extern const char *const xm_evict_names[];		     /* NULL-terminated, default first */

/* ---- prefetch --------------------------------------------------------------------------------------- */

#define XM_PREFETCH_MAX 64 /* pages that one decision may name */

struct xm_prefetch_advice {
	int64_t stride;	 /* pages between neighbours: +1 forward run, -1 backward, others strided */
	int32_t count;	 /* so many more are wanted: from page + stride on, or behind those that are there; 0: none */
};

struct xm_prefetch_ops {
	const char *name;
	size_t (*state_bytes)(void);
	void (*init)(void *state);
	/* A demand fault on page happened (not called for pages that were prefetched and then hit: those are
	 * told by hit()). The advice says which further pages to fetch along. */
	struct xm_prefetch_advice (*fault)(void *state, uint64_t page);
	/* n pages that were prefetched have been touched since / were for nothing */
	void (*hit)(void *state, uint64_t n);
	void (*waste)(void *state, uint64_t n);
};

/* none; stride: repeats of one delta, window doubles 2..64 with confirmation, halves with waste;
 * majority: majority vote over the last 32 deltas (Boyer-Moore; Leap, Al Maruf and Chowdhury, ATC 2020),
 * window grows with hits and shrinks with waste. */
extern const struct xm_prefetch_ops xm_prefetch_none, xm_prefetch_stride, xm_prefetch_majority;
const struct xm_prefetch_ops *xm_prefetch_find(const char *name);
extern const char *const xm_prefetch_names[];

#endif
