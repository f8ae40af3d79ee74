/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - opens links of the peer's transport and wraps them in decorators.
 * One thread at a time per link; no locks, no state of its own.
 */
#include "link/link.h"

#include "link/inject.h"
#include "link/peer_impl.h"
#include "log.h"

#include <errno.h>

/* Callers try again for a while: one line says why. */
static int open_verbs(struct xm_peer *p, struct xm_link **out)
{
	char why[XM_WHY_MAX] = "";
	int ret = xm_verbs_link_open(p, out, why);

	if (ret == 0)
		xm_store(&p->complained, 0);
	else if (!__atomic_exchange_n(&p->complained, 1, __ATOMIC_RELAXED))
		xm_warn("%s", why);
	return ret;
}

int xm_link_open(struct xm_peer *p, struct xm_link **out)
{
	struct xm_link *l, *outer;
	int ret;

	switch (p->uri.kind) {
	case XM_URI_SHM: ret = xm_shm_link_open(p, &l); break;
	case XM_URI_TCP: ret = xm_tcp_link_open(p, &l); break;
	default: ret = open_verbs(p, &l);
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

int xm_link_path(struct xm_link *l, struct xm_link_path *out)
{
	*out = (struct xm_link_path){ .node = -1 };
	return l->ops->path ? l->ops->path(l, out) : 0;
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
