/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - promises and warm slabs. The mutex is held for arithmetic and list operations only, never while
 * a slab is made, registered or destroyed: those take milliseconds. `backed` is raised before a slab is made and
 * lowered after one is destroyed. The promise for a slab ends with its last reference: a client that frees a slab
 * while a transfer of its own holds it has that much less to ask for, and nobody is lent more than there is.
 * Threads: any; the pool's own thread runs keep_warm(). Who takes a slab may wait for that thread, which waits for nobody:
 * the device and the kernel answer it without any help of ours.
 */
#include "appliance/pool.h"

#include "appliance/grant.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <string.h>

static struct xm_slab *pop(struct xm_slab **list)
{
	struct xm_slab *s = *list;

	if (s) {
		*list = s->next;
		s->next = NULL;
	}
	return s;
}

static struct xm_grant *pop_revoked(struct xm_pool *p)
{
	struct xm_grant *g = p->revoked;

	if (g) {
		p->revoked = g->slab_next;
		g->slab_next = NULL;
	}
	return g;
}

static void destroy_one(struct xm_pool *p, struct xm_slab *s)
{
	xm_slab_destroy(s);
	pthread_mutex_lock(&p->mutex);
	p->backed--;
	pthread_cond_broadcast(&p->made); /* there is room */
	pthread_mutex_unlock(&p->mutex);
}

static void add_warm(struct xm_pool *p, struct xm_slab *s)
{
	s->next = p->warm;
	p->warm = s;
	p->warm_count++;
}

/* The first warm slab of this domain (NULL: of none), taken out of the list; mutex held. */
static struct xm_slab *pick(struct xm_pool *p, const struct xm_domain *domain)
{
	for (struct xm_slab **at = &p->warm; *at; at = &(*at)->next) {
		if ((*at)->domain != domain)
			continue;
		p->warm_count--;
		return pop(at);
	}
	return NULL;
}

static void doom(struct xm_pool *p, struct xm_slab *s)
{
	s->next = p->doomed;
	p->doomed = s;
}

/* Warm slabs only where there is room to lend that nobody waits for; mutex held. */
static bool wants_warm(const struct xm_pool *p)
{
	return p->warm_count < p->warm_target && p->backed + p->waiting < p->total;
}

/* Are all that are warm for other domains, so that one has to go? Mutex held. */
static bool is_crowded(const struct xm_pool *p)
{
	if (!p->active || p->no_keys || !p->warm || p->warm_count < p->warm_target)
		return false;
	for (const struct xm_slab *s = p->warm; s; s = s->next)
		if (!s->domain || s->domain == p->active)
			return false;
	return true;
}

/* Registers a slab that nobody else can see for the active domain and puts it with the warm ones. Mutex held, but
 * not meanwhile: the domain may be forgotten before this is done. */
static void finish_warm(struct xm_pool *p, struct xm_slab *s)
{
	struct xm_domain *domain = p->no_keys ? NULL : xm_domain_get(p->active);
	int ret = 0;

	p->keying = domain;
	if (domain) {
		pthread_mutex_unlock(&p->mutex);
		ret = xm_domain_register(domain, s);
		pthread_mutex_lock(&p->mutex);
	}
	if (ret < 0)
		p->no_keys = true;
	if (s->domain && !p->keying)
		doom(p, s);
	else
		add_warm(p, s);
	p->keying = NULL;
	if (domain) {
		pthread_mutex_unlock(&p->mutex);
		xm_domain_put(domain);
		pthread_mutex_lock(&p->mutex);
	}
}

/* Mutex held, but not meanwhile. 0; -errno: no memory. */
static int make_warm(struct xm_pool *p)
{
	struct xm_slab *s;
	int ret;

	p->backed++;
	pthread_mutex_unlock(&p->mutex);
	ret = xm_slab_create(&p->kind, true, &s);
	pthread_mutex_lock(&p->mutex);
	if (ret == 0)
		finish_warm(p, s);
	else
		p->backed--;
	return ret;
}

/* Mutex held. */
static void doom_warm(struct xm_pool *p)
{
	struct xm_slab *s = pop(&p->warm);

	p->warm_count--;
	doom(p, s);
}

/* Mutex held, but not meanwhile. */
static void end_one(struct xm_pool *p, struct xm_grant *g)
{
	p->revoking = true;
	pthread_mutex_unlock(&p->mutex);
	xm_grant_end(p, g); /* dooms the slab, if that was the last to hold it */
	pthread_mutex_lock(&p->mutex);
	p->revoking = false;
	pthread_cond_broadcast(&p->made);
}

/* One piece of work for the pool's thread. Mutex held, but not meanwhile. 0: there was none; -errno */
static int work(struct xm_pool *p)
{
	struct xm_grant *revoked = NULL;
	struct xm_slab *s = NULL, *doomed;
	int ret = 0;

	if (!p->revoked && !p->doomed && is_crowded(p))
		doom_warm(p);
	/* first: memory that somebody may wait for, while nobody waits for the end of a key */
	doomed = pop(&p->doomed);
	if (!doomed)
		revoked = pop_revoked(p);
	if (revoked) {
		end_one(p, revoked);
		return 1;
	}
	if (!doomed && p->active && !p->no_keys)
		s = pick(p, NULL);
	if (!doomed && !s && !wants_warm(p))
		return 0;
	p->busy = true;
	if (doomed) {
		pthread_mutex_unlock(&p->mutex);
		destroy_one(p, doomed);
		pthread_mutex_lock(&p->mutex);
	} else if (s) {
		finish_warm(p, s);
	} else {
		ret = make_warm(p);
	}
	p->busy = false;
	pthread_cond_broadcast(&p->made);
	return ret < 0 ? ret : 1;
}

static void *keep_warm(void *arg)
{
	struct xm_pool *p = arg;

	pthread_mutex_lock(&p->mutex);
	while (!p->stopping) {
		int ret = work(p);

		if (ret < 0)
			xm_warn("cannot prepare memory ahead: %s (lower --memory, or see --huge)",
				xm_strerror(ret));
		/* after a failure there may be some: what is doomed meanwhile wakes nobody, as this was not asleep */
		if (ret <= 0 && !p->stopping && !p->doomed && !p->revoked)
			pthread_cond_wait(&p->work, &p->mutex);
	}
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

int xm_pool_init(struct xm_pool *p, const struct xm_slab_kind *kind, uint64_t total_bytes,
		 unsigned warm_target)
{
	int ret;

	memset(p, 0, sizeof(*p));
	p->kind = *kind;
	p->warm_target = warm_target;
	p->total = total_bytes / kind->bytes;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->made, NULL);
	ret = pthread_create(&p->thread, NULL, keep_warm, p);
	p->started = ret == 0;
	return -ret;
}

void xm_pool_fini(struct xm_pool *p)
{
	struct xm_slab *s;

	if (!p->started)
		return;
	pthread_mutex_lock(&p->mutex);
	p->stopping = true;
	pthread_cond_signal(&p->work);
	pthread_cond_broadcast(&p->made);
	pthread_mutex_unlock(&p->mutex);
	pthread_join(p->thread, NULL);
	xm_grant_end(p, p->revoked);
	p->revoked = NULL;
	while ((s = pop(&p->warm)))
		xm_slab_destroy(s);
	while ((s = pop(&p->doomed)))
		xm_slab_destroy(s);
	xm_domain_put(p->active);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->made);
	pthread_mutex_destroy(&p->mutex);
	p->started = false;
}

int xm_pool_promise(struct xm_pool *p, uint64_t n)
{
	int ret = -ENOMEM;

	pthread_mutex_lock(&p->mutex);
	if (n <= p->total - p->promised) {
		p->promised += n;
		ret = 0;
	}
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_pool_release(struct xm_pool *p, uint64_t n)
{
	pthread_mutex_lock(&p->mutex);
	xm_assert(n <= p->promised);
	p->promised -= n;
	pthread_mutex_unlock(&p->mutex);
}

/* Whose slabs shall be warm from now on. A reference to put without the mutex, which is held. */
static struct xm_domain *activate(struct xm_pool *p, struct xm_domain *domain)
{
	struct xm_domain *old = p->active;

	p->no_keys = false;
	if (!domain || domain == old)
		return NULL;
	p->active = xm_domain_get(domain);
	return old;
}

/* A warm slab that this domain may have; mutex held. */
static struct xm_slab *pick_for(struct xm_pool *p, const struct xm_domain *domain)
{
	struct xm_slab *s = domain ? pick(p, domain) : NULL;

	return s ? s : pick(p, NULL);
}

/* A warm slab; NULL: there is room for one more, which is counted in backed. Mutex held, but not meanwhile.
 * With everything else lent, the memory that was promised to us is with a slab that is in the making, is warm for another
 * domain, waits to be destroyed or is being destroyed, or is kept by a key that is being taken back. All of that is the
 * pool's thread's: a device may take long, and who takes slabs may also serve those who want none. For keys to be taken
 * back, of which there may be many, nobody waits as long as there is anything else: a warm slab is given up first, and
 * what is doomed comes before the next key. */
static struct xm_slab *await_slab(struct xm_pool *p, const struct xm_domain *domain)
{
	struct xm_slab *s;

	p->waiting++;
	while (!(s = pick_for(p, domain)) && p->backed >= p->total && !p->stopping) {
		bool at_work = p->busy || p->doomed;

		if (!at_work && p->warm)
			doom_warm(p);
		else if (!at_work && !p->revoked && !p->revoking)
			break; /* somebody else has made the slab that this one is asked for */
		pthread_cond_signal(&p->work);
		pthread_cond_wait(&p->made, &p->mutex);
	}
	p->waiting--;
	p->backed += !s;
	return s;
}

int xm_pool_take(struct xm_pool *p, struct xm_domain *domain, bool populate, struct xm_slab **out)
{
	struct xm_domain *old;
	struct xm_slab *s;
	int ret;

	pthread_mutex_lock(&p->mutex);
	old = activate(p, domain); /* first: what is made while we wait had better be for us */
	s = await_slab(p, domain);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
	xm_domain_put(old);
	if (s) {
		*out = s;
		return 0;
	}
	ret = xm_slab_create(&p->kind, populate, out);
	if (ret < 0) {
		pthread_mutex_lock(&p->mutex);
		p->backed--;
		pthread_mutex_unlock(&p->mutex);
	}
	return ret;
}

struct xm_domain *xm_pool_activate(struct xm_pool *p, struct xm_domain *domain)
{
	struct xm_domain *old;

	pthread_mutex_lock(&p->mutex);
	old = activate(p, domain);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
	return old;
}

void xm_pool_forget(struct xm_pool *p, struct xm_domain *domain)
{
	struct xm_domain *old = NULL;
	struct xm_slab *s;

	pthread_mutex_lock(&p->mutex);
	if (p->active == domain) {
		old = domain;
		p->active = NULL;
	}
	if (p->keying == domain)
		p->keying = NULL;
	while ((s = pick(p, domain)))
		doom(p, s);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
	xm_domain_put(old);
}

int xm_pool_may_grant(struct xm_pool *p)
{
	int ret = -EUSERS;

	pthread_mutex_lock(&p->mutex);
	if (p->grants < p->total) {
		p->grants++;
		ret = 0;
	}
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_pool_grant_over(struct xm_pool *p)
{
	pthread_mutex_lock(&p->mutex);
	xm_assert(p->grants > 0);
	p->grants--;
	pthread_mutex_unlock(&p->mutex);
}

void xm_pool_revoke(struct xm_pool *p, struct xm_grant *list)
{
	struct xm_grant *last = list;

	if (!list)
		return;
	while (last->slab_next)
		last = last->slab_next;
	pthread_mutex_lock(&p->mutex);
	last->slab_next = p->revoked;
	p->revoked = list;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
}

void xm_slab_get(struct xm_slab *s)
{
	__atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
}

void xm_slab_put(struct xm_pool *p, struct xm_slab *s, bool now)
{
	bool owes;

	if (__atomic_fetch_sub(&s->refs, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	owes = s->owes;
	if (now) {
		destroy_one(p, s);
		xm_pool_release(p, owes);
		return;
	}
	pthread_mutex_lock(&p->mutex);
	xm_assert(owes <= p->promised);
	p->promised -= owes;
	doom(p, s);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
}

void xm_pool_raise(struct xm_pool *p, uint64_t total_bytes)
{
	pthread_mutex_lock(&p->mutex);
	p->total = xm_max(p->total, total_bytes / p->kind.bytes);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
}

void xm_pool_stat(struct xm_pool *p, struct xm_pool_stat *out)
{
	pthread_mutex_lock(&p->mutex);
	out->total_bytes = p->total * p->kind.bytes;
	out->free_bytes = (p->total - p->promised) * p->kind.bytes;
	out->warm_bytes = p->warm_count * p->kind.bytes;
	out->promised_slabs = p->promised;
	out->backed_slabs = p->backed;
	pthread_mutex_unlock(&p->mutex);
}
