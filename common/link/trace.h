/* SPDX-License-Identifier: Apache-2.0 */
/* trace.h - a link that remembers the last operations that went through it, for tests and diagnosis. */
#ifndef XM_TRACE_H
#define XM_TRACE_H

#include "link/link.h"

#define XM_TRACE_ENTRIES 4096u /* the ring keeps this many */

enum xm_trace_what {
	XM_TRACE_READ = 1,
	XM_TRACE_WRITE,
	XM_TRACE_CAS,
	XM_TRACE_FAA,
	XM_TRACE_DIRECT,
	XM_TRACE_FLUSH,
	XM_TRACE_COMPLETION,
	XM_TRACE_RECONNECT,
};

struct xm_trace_entry {
	uint64_t time_ns; /* monotonic */
	uint64_t region, off, cookie;
	uint32_t len;
	int32_t status; /* what the call returned, or the completion's status */
	enum xm_trace_what what;
};

/* Takes ownership of `inner`, on success only. -ENOMEM. */
int xm_trace_wrap(struct xm_link *inner, struct xm_link **out);
/* Entries recorded since the wrap; entry i of them, or NULL when the ring has overwritten it or i is ahead. */
uint64_t xm_trace_count(const struct xm_link *traced);
const struct xm_trace_entry *xm_trace_get(const struct xm_link *traced, uint64_t i);

#endif
