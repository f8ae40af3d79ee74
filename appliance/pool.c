/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - promises and warm slabs. The mutex is held for arithmetic and list operations only, never while
 * a slab is made or destroyed: those take milliseconds. `backed` is raised before a slab is made and
 * lowered after one is destroyed. The promise for a slab ends with its last reference: a client that frees a slab
 * while a transfer of its own holds it has that much less to ask for, and nobody is lent more than there is.
 * Threads: any; the pool's own thread runs keep_warm().
 */
#include "appliance/pool.h"

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

static void destroy_one(struct xm_pool *p, struct xm_slab *s)
{
	xm_slab_destroy(s);
	pthread_mutex_lock(&p->mutex);
	p->backed--;
	pthread_mutex_unlock(&p->mutex);
}

/* The next thing for the pool's thread to do; mutex held. Warm slabs only where there is room to lend. */
static bool wants_warm(const struct xm_pool *p)
{
	return p->warm_count < p->warm_target && p->backed < p->total;
}

static void *keep_warm(void *arg)
{
	struct xm_pool *p = arg;
	bool complained = false;

	pthread_mutex_lock(&p->mutex);
	while (!p->stopping) {
		struct xm_slab *s = pop(&p->doomed);
		int ret;

		if (s) {
			pthread_mutex_unlock(&p->mutex);
			destroy_one(p, s);
			pthread_mutex_lock(&p->mutex);
			continue;
		}
		if (!wants_warm(p) || complained) {
			pthread_cond_wait(&p->work, &p->mutex);
			complained = false;
			continue;
		}
		p->backed++;
		p->making = true;
		pthread_mutex_unlock(&p->mutex);
		ret = xm_slab_create(&p->kind, true, &s);
		pthread_mutex_lock(&p->mutex);
		p->making = false;
		pthread_cond_broadcast(&p->made);
		if (ret < 0) {
			xm_warn("cannot prepare memory ahead: %s (lower --memory, or see --huge)",
				xm_strerror(ret));
			complained = true;
			p->backed--;
			continue;
		}
		s->next = p->warm;
		p->warm = s;
		p->warm_count++;
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
	pthread_mutex_unlock(&p->mutex);
	pthread_join(p->thread, NULL);
	while ((s = pop(&p->warm)))
		xm_slab_destroy(s);
	while ((s = pop(&p->doomed)))
		xm_slab_destroy(s);
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

int xm_pool_take(struct xm_pool *p, bool populate, struct xm_slab **out)
{
	struct xm_slab *s, *doomed = NULL;
	int ret;

	pthread_mutex_lock(&p->mutex);
	/* with everything else promised, the slab in the making is the one that was promised to us */
	while (!p->warm && !p->doomed && p->making && p->backed >= p->total)
		pthread_cond_wait(&p->made, &p->mutex);
	s = pop(&p->warm);
	if (s) {
		p->warm_count--;
	} else {
		/* promised memory may still be with a slab that waits to be destroyed: it goes first */
		if (p->backed >= p->total)
			doomed = pop(&p->doomed);
		p->backed++;
	}
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
	if (s) {
		*out = s;
		return 0;
	}
	if (doomed)
		destroy_one(p, doomed);
	ret = xm_slab_create(&p->kind, populate, out);
	if (ret < 0) {
		pthread_mutex_lock(&p->mutex);
		p->backed--;
		pthread_mutex_unlock(&p->mutex);
	}
	return ret;
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
	s->next = p->doomed;
	p->doomed = s;
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
