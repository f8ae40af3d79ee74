/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grant.h - a guest's key to a slab of somebody else's region: a registration of the slab in the guest session's own
 * protection domain, with no more rights than the region's rules give it.
 *
 *      guest session ── grants ── grant ── slab_next ── grant ...
 *                                   │
 *                                 slab (one reference), domain (one reference), registration
 *
 * A grant is in its session's list and in its slab's for as long as the session lives and the slab is in a region's table.
 * Both lists are guarded by the registry's mutex, which is never held around a call of the device. Who ends either unlinks
 * the grant from both under the mutex; from then on it is theirs to end, without it:
 *
 *      SLAB_KEYS (guest's worker): register --mutex: still there, still permitted?--> in both lists
 *                                             \--no--> deregister: the slab was not there
 *      drop, shrink, free (owner's worker):   in no session's list --> deregistered before the owner is answered; more than
 *                                             a few: the pool's thread deregisters
 *      end of a session, the owner's or the guest's (control thread): in no list --> the pool's thread deregisters
 */
#ifndef XM_GRANT_H
#define XM_GRANT_H

#include "appliance/appliance.h"

#define XM_SLAB_GRANTS_MAX 64u /* of one slab */

struct xm_grant {
	struct xm_slab
		*slab; /* one reference: it is neither destroyed nor counted free before this has ended */
	struct xm_domain *domain;   /* one reference */
	struct xm_session *session; /* compared by who holds the mutex; not to be followed */
	void *mr;
	uint32_t rkey, rights;
	struct xm_grant *next, **at; /* of the session's; at NULL: in no session's list */
	struct xm_grant *slab_next,
		**slab_at; /* of the slab's; in no session's list: of those that are to be ended */
};

/* Which slab of which region is asked for, and by whom. */
struct xm_grant_want {
	struct xm_session *session;
	struct xm_domain *domain; /* the session's; the caller's reference */
	struct xm_slab *slab;	  /* the caller's reference */
	uint64_t region, index;
};

/* The guest's key to the slab: the one it has, or a new one. Guest's worker, no lock held; takes as long as registering
 * does. 0; -ENXIO the slab is there no more, or the session may not read it any more; -EUSERS it has its 64 grants, or
 * there are as many in all as slabs (pool.h);
 * -ENOMEM, or what the device says. */
int xm_grant_get(struct xm_appliance *a, const struct xm_grant_want *w, struct xm_wire_key *out);
/* The slab leaves its region's table: its grants leave their sessions' lists and are the caller's, in s->grants. Mutex
 * held. */
void xm_grant_detach_slab(struct xm_slab *s);
/* The session is over: its grants leave all lists. The caller's, by slab_next. Mutex held. */
struct xm_grant *xm_grant_detach_session(struct xm_session *s);
/* Deregisters and frees them: their keys are worth nothing when this returns. A device call each; no lock held. */
void xm_grant_end(struct xm_pool *p, struct xm_grant *list);

#endif
