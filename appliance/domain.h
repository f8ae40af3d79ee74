/* SPDX-License-Identifier: Apache-2.0 */
/*
 * domain.h - a session's protection domain on an RDMA device, and the registration of slabs in it.
 *
 * A key that was given out is good for connections of the same domain only, so sessions cannot reach each other's
 * slabs by guessing keys. What a session shares with another is registered in that one's domain, too (grant.h).
 * References: one of the session, one a connection, one a registered slab, one a grant, one of the pool.
 */
#ifndef XM_DOMAIN_H
#define XM_DOMAIN_H

#include <stdbool.h>
#include <stdint.h>

struct ibv_context;
struct ibv_pd;
struct xm_domain;
struct xm_grant;
struct xm_slab;

/* refs = 1. 0; -ENOMEM, or what the device says. A system call: no lock may be held. */
int xm_domain_create(struct ibv_context *device, struct xm_domain **out);
/* Any thread; NULL is fine for both. The last put is a system call. */
struct xm_domain *xm_domain_get(struct xm_domain *d);
void xm_domain_put(struct xm_domain *d);
struct ibv_context *xm_domain_device(const struct xm_domain *d);
struct ibv_pd *xm_domain_pd(const struct xm_domain *d);
/* Lets the domain's connections read, write and do atomics on the slab: s->domain, s->mr, s->rkey. Nothing to do
 * when it is registered there already; in another domain: -EXDEV. Pins its pages: some 20 ms for 64 MiB.
 * 0; -ENOMEM (memory, or the limit of locked memory: logged); -errno. No lock held; the slab is the caller's. */
int xm_domain_register(struct xm_domain *d, struct xm_slab *s);
/* The slab's key is worth nothing when this returns. Not registered: nothing to do. As above. */
void xm_domain_deregister(struct xm_slab *s);
/* A registration of g->slab in g->domain beside all that it has, for no more than g->rights: g->mr, g->rkey. Takes no
 * reference. As xm_domain_register(), but not logged: the slab may have been cut meanwhile, which is no fault. */
int xm_domain_grant(struct xm_grant *g);
/* That the device said so, for the log; not each time. */
void xm_domain_complain(int err);
/* The grant's key is worth nothing when this returns. As above. */
void xm_domain_revoke(struct xm_grant *g);

#endif
