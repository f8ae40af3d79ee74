/* SPDX-License-Identifier: Apache-2.0 */
/* preload_mman.h - between preload_mman.c and preload_mman_more.c: ranges cut at the edges of external memory. */
#ifndef XM_PRELOAD_MMAN_H
#define XM_PRELOAD_MMAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xm_pre_part {
	char *addr;
	size_t bytes;
	bool external;
};

/* True when [addr, addr+len) touches external memory and the calling thread must be told apart. Empty and wrapping
 * ranges are left to the kernel, which knows what they mean. */
bool xm_pre_touches(const void *addr, size_t len);
/* Cuts a range that touches external memory into 1 to 3 parts; returns how many. */
int xm_pre_split(const void *addr, size_t len, struct xm_pre_part part[3]);
/* Runs ext on the external part and the system call nr(addr, len, a, b) on what lies outside; goes on after an error, as the
 * kernel does over holes, and returns the first one, or 0. */
long xm_pre_each(void *addr, size_t len, long (*ext)(void *, size_t, long), long nr, long a, long b);
/* Puts a kernel mapping that was made elsewhere (tmp, len bytes) over external addresses, in place of what is there.
 * addr, or -errno with tmp unmapped. */
long xm_pre_put_foreign(void *tmp, size_t len, void *addr);

#endif
