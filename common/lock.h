/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - a small futex mutex for the runtime: no malloc, no TLS of libc, can be re-initialised in the child of
 * fork, private to a process. Every lock has a rank; checked builds verify that ranks only go up.
 */
#ifndef XM_LOCK_H
#define XM_LOCK_H

#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>

#include "log.h"
#include "sys.h"
#include "util.h"

enum xm_lock_rank {
	XM_RANK_LIST = 1,   /* api.c: the handle and its regions */
	XM_RANK_REGION,	    /* region.c: portions of one region */
	XM_RANK_MAP,	    /* mapping.c: the book of mappings */
	XM_RANK_RECLAIM,    /* reclaim.c: one batch at a time */
	XM_RANK_GROW,	    /* remote.c: links and growth of the process */
	XM_RANK_POLICY,	    /* eviction policy state */
	XM_RANK_FD,	    /* table of own descriptors */
};

struct xm_lock {
	uint32_t word; /* 0 free, 1 held, 2 held with waiters */
	uint32_t rank;
};

#ifdef XM_CHECKED
extern __thread uint32_t xm_lock_held __attribute__((tls_model("initial-exec"))); /* bit per rank */
#endif

static inline void xm_lock_init(struct xm_lock *l, enum xm_lock_rank rank)
{
	l->word = 0;
	l->rank = rank;
}

static inline void xm_lock_note(struct xm_lock *l, bool taken)
{
#ifdef XM_CHECKED
	if (taken) {
		xm_assert((xm_lock_held >> l->rank) == 0); /* nothing of equal or higher rank is held */
		xm_lock_held |= 1u << l->rank;
	} else {
		xm_lock_held &= ~(1u << l->rank);
	}
#else
	(void)l;
	(void)taken;
#endif
}

/* false: not taken within timeout_ns (UINT64_MAX: for ever, 0: only try) */
static inline bool xm_lock_timed(struct xm_lock *l, uint64_t timeout_ns)
{
	uint32_t zero = 0;
	uint64_t end = timeout_ns == UINT64_MAX || timeout_ns == 0 ? timeout_ns : xm_now_ns() + timeout_ns;

	if (__atomic_compare_exchange_n(&l->word, &zero, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
		xm_lock_note(l, true);
		return true;
	}
	for (;;) {
		struct timespec ts, *tsp = NULL;

		if (timeout_ns == 0)
			return false;
		if (__atomic_exchange_n(&l->word, 2, __ATOMIC_ACQUIRE) == 0)
			break;
		if (timeout_ns != UINT64_MAX) {
			uint64_t now = xm_now_ns();

			if (now >= end)
				return false;
			ts.tv_sec = (time_t)((end - now) / 1000000000ull);
			ts.tv_nsec = (long)((end - now) % 1000000000ull);
			tsp = &ts;
		}
		xm_sys6(SYS_futex, (long)&l->word, FUTEX_WAIT_PRIVATE, 2, (long)tsp, 0, 0);
	}
	xm_lock_note(l, true);
	return true;
}

static inline void xm_lock(struct xm_lock *l)
{
	xm_lock_timed(l, UINT64_MAX);
}

static inline void xm_unlock(struct xm_lock *l)
{
	xm_lock_note(l, false);
	if (__atomic_exchange_n(&l->word, 0, __ATOMIC_RELEASE) == 2)
		xm_sys6(SYS_futex, (long)&l->word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

#endif
