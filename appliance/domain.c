/* SPDX-License-Identifier: Apache-2.0 */
/*
 * domain.c - protection domains and registered slabs: with serve_verbs.c the only user of libibverbs.
 *
 * Any thread; takes no lock, and none is held around a call: the device takes milliseconds. Who may register or
 * deregister a slab at a time is settled by its owner: the pool's thread while it is in the making or warm, its
 * session's one long request once it is in a region's table, and whoever drops the last reference. Grants: grant.h.
 */
#include "appliance/domain.h"

#include "appliance/grant.h"
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

void xm_domain_complain(int err)
{
	static uint64_t last_ns; /* atomic */
	uint64_t now = xm_now_ns(), last = xm_load_relaxed(&last_ns);

	if (last && now - last < COMPLAIN_NS)
		return;
	xm_store(&last_ns, now);
	xm_warn("verbs: memory cannot be registered with the device: %s%s", xm_strerror(err),
		err == -ENOMEM ? " (raise the limit of locked memory, see ulimit -l)" : "");
}

/* NULL and *ret */
static struct ibv_mr *reg(struct xm_domain *d, const struct xm_slab *s, bool write, int *ret)
{
	int access = IBV_ACCESS_REMOTE_READ;
	struct ibv_mr *mr;

	if (write) /* which a device permits only where it may write itself */
		access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
	mr = ibv_reg_mr(d->pd, s->addr, s->bytes, access);
	*ret = mr ? 0 : errno ? -errno : -EIO;
	return mr;
}

static void dereg(void *mr)
{
	int ret = ibv_dereg_mr(mr);

	/* the device is gone, and nothing is left to reach the memory by; else its pages stay pinned, and nobody's */
	if (ret)
		xm_warn("verbs: a registration stays behind: %s", xm_strerror(ret));
}

int xm_domain_register(struct xm_domain *d, struct xm_slab *s)
{
	struct ibv_mr *mr;
	int ret;

	if (s->domain)
		return s->domain == d ? 0 : -EXDEV;
	mr = reg(d, s, true, &ret);
	if (!mr) {
		xm_domain_complain(ret);
		return ret;
	}
	s->mr = mr;
	s->rkey = mr->rkey;
	s->domain = xm_domain_get(d);
	return 0;
}

void xm_domain_deregister(struct xm_slab *s)
{
	struct xm_domain *d = s->domain;

	if (!d)
		return;
	dereg(s->mr);
	s->domain = NULL;
	s->mr = NULL;
	s->rkey = 0;
	xm_domain_put(d);
}

int xm_domain_grant(struct xm_grant *g)
{
	struct ibv_mr *mr;
	int ret;

	mr = reg(g->domain, g->slab, g->rights & XM_WIRE_RIGHT_WRITE, &ret);
	if (!mr)
		return ret;
	g->mr = mr;
	g->rkey = mr->rkey;
	return 0;
}

void xm_domain_revoke(struct xm_grant *g)
{
	dereg(g->mr);
	g->mr = NULL;
	g->rkey = 0;
}
