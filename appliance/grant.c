/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grant.c - guests' keys to slabs: given, found again, and unlinked by whoever ends the slab or the session (drawing:
 * grant.h). Workers, the control thread and the pool's. Takes the registry's mutex in xm_grant_get(), for lists and
 * comparisons alone: whatever the device does in between may meet a slab that was freed meanwhile, so what was found
 * before is looked at again.
 *
 * A session that has a domain has a verbs connection, so rules for users never name it (access.c), and rules do not
 * change: a grant's rights are right for as long as its region is there.
 */
#include "appliance/grant.h"

#include <errno.h>
#include <stdlib.h>

static struct xm_grant *find(const struct xm_slab *s, const struct xm_session *session)
{
	struct xm_grant *g = s->grants;

	while (g && g->session != session)
		g = g->slab_next;
	return g;
}

static void describe(const struct xm_grant *g, struct xm_wire_key *out)
{
	out->addr = (uint64_t)(uintptr_t)g->slab->addr;
	out->rkey = g->rkey;
	out->rights = g->rights;
}

static void link_session(struct xm_grant *g)
{
	g->at = &g->session->grants;
	g->next = *g->at;
	if (g->next)
		g->next->at = &g->next;
	*g->at = g;
}

static void unlink_session(struct xm_grant *g)
{
	*g->at = g->next;
	if (g->next)
		g->next->at = g->at;
	g->next = NULL;
	g->at = NULL;
}

static void link_slab(struct xm_grant *g)
{
	g->slab_at = &g->slab->grants;
	g->slab_next = *g->slab_at;
	if (g->slab_next)
		g->slab_next->slab_at = &g->slab_next;
	*g->slab_at = g;
	g->slab->grant_count++;
}

static void unlink_slab(struct xm_grant *g)
{
	*g->slab_at = g->slab_next;
	if (g->slab_next)
		g->slab_next->slab_at = g->slab_at;
	g->slab_next = NULL;
	g->slab_at = NULL;
	g->slab->grant_count--;
}

/* What the session may do to the slab with one more grant. > 0: XM_WIRE_RIGHT_...; -ENXIO, -EUSERS. Mutex held. */
static int may_have(struct xm_appliance *a, const struct xm_grant_want *w)
{
	uint32_t rights = xm_lend_rights(a, w->session, w->region, w->index, w->slab);

	if (!(rights & XM_WIRE_RIGHT_READ))
		return -ENXIO; /* and nothing of a slab that has left the table may be looked at: it is somebody's own */
	return w->slab->grant_count < XM_SLAB_GRANTS_MAX ? (int)rights : -EUSERS;
}

/* No lock held. 0; -EUSERS, -ENOMEM, or what the device says */
static int make(struct xm_pool *p, const struct xm_grant_want *w, uint32_t rights, struct xm_grant **out)
{
	struct xm_grant *g;
	int ret = xm_pool_may_grant(p);

	if (ret < 0)
		return ret;
	g = calloc(1, sizeof(*g));
	if (!g) {
		xm_pool_grant_over(p);
		return -ENOMEM;
	}
	g->session = w->session;
	g->slab = w->slab;
	g->rights = rights;
	g->domain = w->domain;
	ret = xm_domain_grant(g);
	if (ret < 0) {
		free(g);
		xm_pool_grant_over(p);
		return ret;
	}
	xm_domain_get(g->domain);
	xm_slab_get(g->slab);
	*out = g;
	return 0;
}

/* A slab that left its table was cut, and a device then says this and that: it is the slab that is not there. */
static int explain(struct xm_appliance *a, const struct xm_grant_want *w, int err)
{
	int rights;

	pthread_mutex_lock(&a->mutex);
	rights = may_have(a, w);
	pthread_mutex_unlock(&a->mutex);
	if (rights == -ENXIO)
		return -ENXIO;
	if (err != -EUSERS)
		xm_domain_complain(err);
	return err;
}

int xm_grant_get(struct xm_appliance *a, const struct xm_grant_want *w, struct xm_wire_key *out)
{
	struct xm_grant *g = NULL;
	int rights, ret;

	pthread_mutex_lock(&a->mutex);
	rights = may_have(a, w);
	if (rights != -ENXIO)
		g = find(w->slab, w->session);
	if (g)
		describe(g, out);
	pthread_mutex_unlock(&a->mutex);
	if (g || rights < 0)
		return g ? 0 : rights;
	ret = make(&a->pool, w, (uint32_t)rights, &g);
	if (ret < 0)
		return explain(a, w, ret);
	pthread_mutex_lock(&a->mutex);
	ret = may_have(a, w);
	if (ret > 0) {
		link_session(g);
		link_slab(g);
		describe(g, out);
	}
	pthread_mutex_unlock(&a->mutex);
	if (ret < 0)
		xm_grant_end(&a->pool, g);
	return ret < 0 ? ret : 0;
}

void xm_grant_detach_slab(struct xm_slab *s)
{
	for (struct xm_grant *g = s->grants; g; g = g->slab_next)
		unlink_session(g);
}

struct xm_grant *xm_grant_detach_session(struct xm_session *s)
{
	struct xm_grant *list = NULL, *g;

	while ((g = s->grants)) {
		unlink_session(g);
		unlink_slab(g);
		g->slab_next = list;
		list = g;
	}
	return list;
}

void xm_grant_end(struct xm_pool *p, struct xm_grant *list)
{
	while (list) {
		struct xm_grant *g = list;

		list = g->slab_next;
		xm_domain_revoke(g);
		xm_domain_put(g->domain);
		xm_pool_grant_over(p);
		xm_slab_put(p, g->slab, false);
		free(g);
	}
}
