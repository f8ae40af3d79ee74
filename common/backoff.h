/* SPDX-License-Identifier: Apache-2.0 */
/* backoff.h - the pause between attempts at something that may come back: doubles, and ends at a deadline. */
#ifndef XM_BACKOFF_H
#define XM_BACKOFF_H

#include <stdbool.h>

#include "sys.h"
#include "util.h"

#define XM_BACKOFF_NS_MIN 1000000ull
#define XM_BACKOFF_NS_MAX 200000000ull

/* Starts as { .deadline_ns = ... } (CLOCK_MONOTONIC); one thread's. */
struct xm_backoff {
	uint64_t deadline_ns, pause_ns;
};

/* Sleeps: 1 ms the first time, then twice as long each time up to 200 ms, never beyond the deadline. False, at once, when
 * that has passed. */
static inline bool xm_backoff(struct xm_backoff *b)
{
	uint64_t now = xm_now_ns();

	if (now >= b->deadline_ns)
		return false;
	b->pause_ns = b->pause_ns ? xm_min(b->pause_ns * 2, XM_BACKOFF_NS_MAX) : XM_BACKOFF_NS_MIN;
	xm_sys_sleep(xm_min(b->pause_ns, b->deadline_ns - now));
	return true;
}

#endif
