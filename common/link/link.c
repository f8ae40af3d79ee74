/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - opens links of the peer's transport and wraps them in decorators.
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

	switch (p->uri.kind) {
	case XM_URI_SHM: ret = xm_shm_link_open(p, &l); break;
	case XM_URI_TCP: ret = xm_tcp_link_open(p, &l); break;
	default: ret = xm_verbs_link_open(p, &l);
	}
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

int xm_link_lend(struct xm_link *l, void *buf, size_t len)
{
	return l->ops->lend ? l->ops->lend(l, buf, len) : 0;
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
