/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.h - one slab: a memory object of its own, mapped here, that clients on this host may map too.
 * Made, shared, and destroyed; never used twice: whoever still maps a slab that was freed meets a signal or
 * EFAULT and never somebody else's data. The same holds for its key over RDMA.
 */
#ifndef XM_SLAB_H
#define XM_SLAB_H

#include "appliance/domain.h"

#include <stdbool.h>
#include <stdint.h>

struct xm_grant;

#define XM_NUMA_OFF (-1)
#define XM_NUMA_INTERLEAVE (-2)

struct xm_slab_kind {
	uint64_t bytes;
	uint64_t huge_bytes; /* 0: ordinary pages; else 2 MiB or 1 GiB */
	int numa;	     /* node, XM_NUMA_OFF or XM_NUMA_INTERLEAVE */
};

struct xm_slab {
	int fd;
	int refs; /* atomic: the region's and one for each operation under way */
	bool owes; /* freed by its region: its promise is given back with the last reference */
	uint8_t *addr;
	uint64_t bytes;
	struct xm_domain *domain; /* whose connections reach it by rkey; NULL: not registered (domain.c: who may) */
	void *mr;
	uint32_t rkey;
	struct xm_grant *grants; /* others' keys to it: the registry's mutex, while it is in a table (grant.h) */
	unsigned grant_count;
	struct xm_slab *next; /* in whatever list it is */
};

/* refs = 1, all zeros. populate: its pages are allocated (and charged to this process) now.
 * 0; -ENOMEM; -EMFILE. Blocks for some 20 ms a 64 MiB slab. */
int xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out);
/* Cuts off every mapping of it: who touches it meets a signal, the kernel EFAULT. For ever. */
void xm_slab_cut(struct xm_slab *s);
/* Invalidates its key, cuts off every mapping of it and frees its memory. refs must be 0. NULL is fine. */
void xm_slab_destroy(struct xm_slab *s);

#endif
