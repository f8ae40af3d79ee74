/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - opens links of the peer's transport, wraps them in decorators, and offers blocking conveniences.
 * One thread at a time per link; no locks, no state of its own.
 */
#include "link/link.h"

#include "link/inject.h"
#include "link/peer_impl.h"

#include <errno.h>

int xm_link_open(struct xm_peer *p, struct xm_link **out)
{
	struct xm_link *l, *outer;
	int ret;

	ret = p->uri.kind == XM_URI_SHM ? xm_shm_link_open(p, &l) : xm_tcp_link_open(p, &l);
	if (ret < 0)
		return ret;
	if (p->inject_spec[0]) {
		ret = xm_inject_wrap(l, p->inject_spec, &outer);
		if (ret < 0) {
			l->ops->close(l);
			return ret;
		}
		l = outer;
	}
	*out = l;
	return 0;
}

void xm_link_forget(struct xm_link *l)
{
	if (l)
		l->ops->forget(l);
}

int xm_link_reconnect(struct xm_link *l)
{
	return l->ops->reconnect(l);
}

/* Waits for the one operation in flight. Out of time the link is killed: its buffer is the caller's again. */
static int finish_sync(struct xm_link *l, uint64_t timeout_ns)
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

int xm_link_read_sync(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off,
		      uint64_t timeout_ns)
{
	int ret = l->ops->read(l, dst, len, region, off, 0);

	return ret < 0 ? ret : finish_sync(l, timeout_ns);
}

int xm_link_writev_sync(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
			uint64_t timeout_ns)
{
	int ret = l->ops->writev(l, iov, n, region, off, 0);

	return ret < 0 ? ret : finish_sync(l, timeout_ns);
}
