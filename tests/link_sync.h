/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_sync.h - one operation on a link with nothing else in flight: submit, flush, wait. timeout_ns bounds the wait
 * (-ETIMEDOUT). A link that dies is not reconnected here.
 */
#ifndef XM_TESTS_LINK_SYNC_H
#define XM_TESTS_LINK_SYNC_H

#include <errno.h>

#include "link/link.h"
#include "util.h"

/* Waits for the one operation in flight. Out of time the link is killed: its buffer is the caller's again. */
static inline int link_finish_sync(struct xm_link *l, uint64_t timeout_ns)
{
	uint64_t start = xm_now_ns();
	struct xm_completion c;

	l->ops->flush(l);
	while (l->ops->poll(l, &c, 1) != 1) {
		uint64_t spent = xm_now_ns() - start;

		if (spent < timeout_ns && l->ops->wait(l, timeout_ns - spent) == 0)
			continue;
		l->ops->kill(l);
		l->ops->poll(l, &c, 1);
		return -ETIMEDOUT;
	}
	return c.status;
}

static inline int link_read_sync(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off,
				 uint64_t timeout_ns)
{
	int ret = l->ops->read(l, dst, len, region, off, 0);

	return ret < 0 ? ret : link_finish_sync(l, timeout_ns);
}

static inline int link_writev_sync(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
				   uint64_t timeout_ns)
{
	int ret = l->ops->writev(l, iov, n, region, off, 0);

	return ret < 0 ? ret : link_finish_sync(l, timeout_ns);
}

#endif
