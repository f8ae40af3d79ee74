/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - the RAM that is lent: how much is promised, and slabs made ahead of requests.
 *
 *      total = free + promised            promised slabs get their memory when they are first used
 *
 * Promising is arithmetic, so a region of any size is made at once. One thread keeps a few slabs warm (made,
 * touched, zero), destroys slabs that were freed, and takes back the keys of guests whose session or region is over.
 *
 * Warm slabs are registered for the domain that was active last, so that handing one out costs no registration. From
 * then on its connections can write there, should they guess the key: such a slab is for that domain, or is
 * destroyed, and never handed to anybody else.
 */
#ifndef XM_POOL_H
#define XM_POOL_H

#include "appliance/slab.h"

#include <pthread.h>

struct xm_pool {
	struct xm_slab_kind kind;
	unsigned warm_target;

	pthread_mutex_t mutex; /* everything below; taken alone or inside the registry's */
	pthread_cond_t work, made;
	pthread_t thread;
	bool stopping, started;
	bool busy; /* the pool's thread is making, registering or destroying a slab, which is counted in backed */
	unsigned waiting; /* who takes slabs and has found all memory in use: room that comes is theirs */
	uint64_t total, promised, backed; /* slabs; backed: occupy memory, those to be destroyed included */
	unsigned warm_count;
	struct xm_slab *warm, *doomed;
	struct xm_grant *revoked; /* to be deregistered, by slab_next; each keeps its slab */
	bool revoking;		  /* the pool's thread deregisters one of those */
	uint64_t grants; /* guests' keys, those to be deregistered included: each pins a slab once more */
	struct xm_domain *active; /* warm slabs are registered for it; one reference; NULL: for none */
	struct xm_domain *keying; /* that the pool's thread registers a slab for now; only compared */
	bool no_keys;		  /* registering failed: not tried again before the next slab is taken */
};

struct xm_pool_stat {
	uint64_t total_bytes, free_bytes, warm_bytes;
	uint64_t promised_slabs, backed_slabs;
};

/* Starts the pool's thread. 0; -errno. */
int xm_pool_init(struct xm_pool *p, const struct xm_slab_kind *kind, uint64_t total_bytes,
		 unsigned warm_target);
/* Stops the thread, destroys warm and doomed slabs. */
void xm_pool_fini(struct xm_pool *p);
/* 0; -ENOMEM: fewer than n slabs are free */
int xm_pool_promise(struct xm_pool *p, uint64_t n);
void xm_pool_release(struct xm_pool *p, uint64_t n);
/* A slab for a promise, refs = 1, registered for `domain` (NULL: of a session without) or not at all. populate:
 * with all its pages (may take 20 ms when none is warm). Where all memory is in use it waits until the pool's thread has
 * destroyed what is nobody's any more: no lock may be held. 0; -ENOMEM, -EMFILE. */
int xm_pool_take(struct xm_pool *p, struct xm_domain *domain, bool populate, struct xm_slab **out);
/* Warm slabs shall be registered for this domain from now on. Returns the reference to the one before, to be put when no
 * mutex is held; NULL: none. */
struct xm_domain *xm_pool_activate(struct xm_pool *p, struct xm_domain *domain);
/* The domain's session is over: warm slabs that were registered for it are destroyed, by the pool's thread. */
void xm_pool_forget(struct xm_pool *p, struct xm_domain *domain);
/* A guest may have one more key: counted until xm_pool_grant_over(). 0; -EUSERS: there are as many as slabs, and no more
 * memory is locked than twice what is lent. */
int xm_pool_may_grant(struct xm_pool *p);
void xm_pool_grant_over(struct xm_pool *p);
/* Grants that are in no list (grant.h), by slab_next: the pool's thread ends them. NULL is fine. */
void xm_pool_revoke(struct xm_pool *p, struct xm_grant *list);
void xm_slab_get(struct xm_slab *s);
/* Drops a reference. The last one destroys the slab: now, or on the pool's thread. */
void xm_slab_put(struct xm_pool *p, struct xm_slab *s, bool now);
/* More memory to lend; never less. */
void xm_pool_raise(struct xm_pool *p, uint64_t total_bytes);
void xm_pool_stat(struct xm_pool *p, struct xm_pool_stat *out);

#endif
