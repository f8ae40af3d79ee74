/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab_wraps.h - for tests through which the making, destroying and registering of slabs goes (tests/module.mk): what they
 * define, and domains that are names only, for there is no device. Once a program.
 */
#ifndef XM_SLAB_WRAPS_H
#define XM_SLAB_WRAPS_H

#include "appliance/slab.h"

int __real_xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out);
int __wrap_xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out);
void __real_xm_slab_destroy(struct xm_slab *s);
void __wrap_xm_slab_destroy(struct xm_slab *s);
struct xm_domain *__wrap_xm_domain_get(struct xm_domain *d);
void __wrap_xm_domain_put(struct xm_domain *d);
int __wrap_xm_domain_register(struct xm_domain *d, struct xm_slab *s);
void __wrap_xm_domain_deregister(struct xm_slab *s);
int __wrap_xm_domain_grant(struct xm_grant *g);
void __wrap_xm_domain_revoke(struct xm_grant *g);

struct xm_domain *__wrap_xm_domain_get(struct xm_domain *d)
{
	return d;
}

void __wrap_xm_domain_put(struct xm_domain *d)
{
}

void __wrap_xm_domain_deregister(struct xm_slab *s)
{
	s->domain = NULL;
}

#ifndef SLAB_WRAPS_GRANTS /* a program's own, that says so */
int __wrap_xm_domain_grant(struct xm_grant *g)
{
	return 0;
}

void __wrap_xm_domain_revoke(struct xm_grant *g)
{
}
#endif

#endif
