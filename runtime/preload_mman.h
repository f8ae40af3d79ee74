/* SPDX-License-Identifier: Apache-2.0 */
/* preload_mman.h - between the preload_mman*.c files: ranges cut at the edges of external
 * memory, and foreign mappings (the kernel's own ones inside it: files, shared memory). */
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

/* True when [addr, addr+len) touches external memory and the calling thread must be told apart.
 * Empty and wrapping ranges are left to the kernel, which knows what they mean. */
bool xm_pre_touches(const void *addr, size_t len);
/* Cuts a range that touches external memory into 1 to 3 parts; returns how many. */
int xm_pre_split(const void *addr, size_t len, struct xm_pre_part part[3]);
/* How many bytes from addr on, within the external range and at most len, are all foreign or all
 * not; *foreign says which. */
size_t xm_pre_piece(const void *addr, size_t len, bool *foreign);
/* munmap and mprotect of memory that is not external, but for the page with the call instruction of fault mode signal, which
 * stays: programs unmap everything below some address. 0 or -errno. */
long xm_pre_local(long nr, void *addr, size_t len, long a, long b);
/* Runs ext on the external parts and the system call nr(addr, len, a, b) on what lies outside
 * and on foreign mappings (but those too are ext's where the call changes the book of mappings:
 * munmap, mprotect). Goes on after an error, as the kernel does over holes, and returns the
 * first one, or 0. */
long xm_pre_each(void *addr, size_t len, long (*ext)(void *, size_t, long), long nr, long a, long b);
/* mremap where the old or the new place is a mapping of the kernel and the other lies in the
 * external range. */
long xm_pre_remap_foreign(void *old, size_t old_len, size_t len, int flags, void *to);
/* Makes external memory ordinary local memory at the same address, contents kept. 0 or -errno. */
long xm_pre_make_local(void *addr, size_t len);
/* Puts a kernel mapping that was made elsewhere (tmp, len bytes) over external addresses, in
 * place of what is there. addr, or -errno with tmp unmapped. */
long xm_pre_put_foreign(void *tmp, size_t len, void *addr);

#endif
