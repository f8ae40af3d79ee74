/* SPDX-License-Identifier: Apache-2.0 */
/*
 * domain.c - protection domains and registered slabs: with serve_verbs.c the only user of libibverbs.
 *
 * Any thread; takes no lock, and none is held around a call: the device takes milliseconds. Who may register or
 * deregister a slab at a time is settled by its owner: the pool's thread while it is in the making or warm, its
 * session's one long request once it is in a region's table, and whoever drops the last reference.
 */
#include "appliance/domain.h"

#include "appliance/slab.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>

#define COMPLAIN_NS 1000000000ull

struct xm_domain {
	unsigned refs; /* atomic */
	struct ibv_pd *pd;
};

int xm_domain_create(struct ibv_context *device, struct xm_domain **out)
{
	struct xm_domain *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	d->refs = 1;
	d->pd = ibv_alloc_pd(device);
	if (!d->pd) {
		err = errno;
		free(d);
		return err ? -err : -EIO;
	}
	*out = d;
	return 0;
}

struct xm_domain *xm_domain_get(struct xm_domain *d)
{
	if (d)
		__atomic_fetch_add(&d->refs, 1, __ATOMIC_RELAXED);
	return d;
}

void xm_domain_put(struct xm_domain *d)
{
	int ret;

	if (!d || __atomic_fetch_sub(&d->refs, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	ret = ibv_dealloc_pd(d->pd);
	if (ret)
		xm_warn("verbs: a protection domain stays behind: %s", xm_strerror(ret));
	free(d);
}

struct ibv_context *xm_domain_device(const struct xm_domain *d)
{
	return d->pd->context;
}

struct ibv_pd *xm_domain_pd(const struct xm_domain *d)
{
	return d->pd;
}

static void complain(int err)
{
	static uint64_t last_ns; /* atomic */
	uint64_t now = xm_now_ns(), last = xm_load_relaxed(&last_ns);

	if (last && now - last < COMPLAIN_NS)
		return;
	xm_store(&last_ns, now);
	xm_warn("verbs: memory cannot be registered with the device: %s%s", xm_strerror(err),
		err == ENOMEM ? " (raise the limit of locked memory, see ulimit -l)" : "");
}

int xm_domain_register(struct xm_domain *d, struct xm_slab *s)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE |
		     IBV_ACCESS_REMOTE_ATOMIC;
	struct ibv_mr *mr;

	if (s->domain)
		return s->domain == d ? 0 : -EXDEV;
	mr = ibv_reg_mr(d->pd, s->addr, s->bytes, access);
	if (!mr) {
		int err = errno ? errno : EIO;

		complain(err);
		return -err;
	}
	s->mr = mr;
	s->rkey = mr->rkey;
	s->domain = xm_domain_get(d);
	return 0;
}

void xm_domain_deregister(struct xm_slab *s)
{
	struct xm_domain *d = s->domain;
	int ret;

	if (!d)
		return;
	ret = ibv_dereg_mr(s->mr);
	/* the device is gone, and nothing is left to reach the memory by; else its pages stay pinned, and nobody's */
	if (ret)
		xm_warn("verbs: a registration stays behind: %s", xm_strerror(ret));
	s->domain = NULL;
	s->mr = NULL;
	s->rkey = 0;
	xm_domain_put(d);
}
