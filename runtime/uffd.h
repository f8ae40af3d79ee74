/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uffd.h - the only module with userfaultfd ioctls. Thin, stateless over a descriptor; any thread; no allocation.
 * Lengths are bytes, multiples of the page size. All return 0 or a count, or negative errno.
 */
#ifndef XM_UFFD_H
#define XM_UFFD_H

#include <stdbool.h>
#include <stdint.h>

struct xm_uffd_event {
	uint64_t addr; /* of the fault, page-aligned down by the caller */
	uint32_t tid;
	bool write, wp, fault; /* fault false: another event */
};

/* Opens one (non-blocking, CLOEXEC) by /dev/userfaultfd or the system call, negotiates; *features is what is
 * usable of enum xm_feature after masking (WP, MOVE, POISON). by_signal: faults are SIGBUS of the faulting thread, and
 * EFAULT of its system calls, instead of messages; any user may have one of those. Returns the descriptor or -errno
 * (-EPERM: no access). */
int xm_uffd_open(uint32_t masked_features, bool by_signal, uint32_t *features);
/* missing faults, and write-protect faults where wp */
int xm_uffd_register(int fd, uint64_t addr, uint64_t len, bool wp);
int xm_uffd_unregister(int fd, uint64_t addr, uint64_t len);
/* Installs len bytes from src at addr; wp: write-protected. Wakes sleepers. Returns bytes installed (may be
 * short: -errno only when nothing was): -EEXIST a page is there, -ENOENT/-EINVAL not (only partly) mapped,
 * -EFAULT src went away. EAGAIN is retried inside, bounded. */
int64_t xm_uffd_copy(int fd, uint64_t addr, const void *src, uint64_t len, bool wp);
int64_t xm_uffd_zero(int fd, uint64_t addr, uint64_t len);
/* The same, but for the sleepers: the caller wakes them (xm_uffd_wake), also where this fails. */
int64_t xm_uffd_copy_asleep(int fd, uint64_t addr, const void *src, uint64_t len, bool wp);
int64_t xm_uffd_zero_asleep(int fd, uint64_t addr, uint64_t len);
/* on: protect; off: unprotect and wake */
int xm_uffd_writeprotect(int fd, uint64_t addr, uint64_t len, bool on);
int xm_uffd_wake(int fd, uint64_t addr, uint64_t len);
/* moves pages out of [src, src+len) to dst (registered, absent): bytes moved, or -EBUSY pinned or shared */
int64_t xm_uffd_move(int fd, uint64_t dst, uint64_t src, uint64_t len);
int xm_uffd_poison(int fd, uint64_t addr, uint64_t len);
/* Reads up to max events; 0: none waiting */
int xm_uffd_read(int fd, struct xm_uffd_event *ev, int max);

#endif
