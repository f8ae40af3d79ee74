/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runtime.h - the runtime of one process: what it holds, start and stop.
 */
#ifndef XM_RUNTIME_H
#define XM_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/family.h"

/* ---- what the preload object uses ------------------------------------------------------------------- */

/* Starts the runtime from the environment (XMEM_FAMILY): joins the family, reserves the external range, opens
 * the userfaultfd, starts the fault handler and reclaim threads. Idempotent, thread-safe. May be called from
 * inside malloc: everything it (or libc below it) allocates is local because the calling thread is marked
 * (xm_in_runtime). 0; -errno after one line on stderr, and then never tried again. Below xmem-run --strict it
 * does not return then: the process ends with 125. */
int xm_runtime_start_env(void);
/* Set by the preload object where faults are to be resolved in the faulting thread (fault_mode): makes this process ready for
 * that, or says why it cannot be; handler threads answer faults then. NULL: they do. */
extern bool (*xm_runtime_by_signal)(char *why, size_t size);
/* This process's memory cannot be external: below xmem-run --strict it ends here, with 125, after its line. */
void xm_runtime_not_covered(void);
/* 1 running, 0 not started, -errno failed to start */
int xm_runtime_state(void);

/* Nesting count of the calling thread inside the runtime, and true for the runtime's own threads: malloc of
 * such a thread must return local memory, interposed calls must go straight to the kernel. Initial-exec TLS. */
extern __thread int xm_in_runtime __attribute__((tls_model("initial-exec")));

/* fork in three parts, called by the atfork handlers of the preload object / of the API library, in this order
 * relative to the allocator: prepare last before fork (allocator locked before it), parent/child first. They
 * block all signals between prepare and parent/child, take libio's list lock, close the gate. */
#define XM_FORK_WAIT_NS 10000000ull /* to begin with */
/* False: somebody is still inside the gate, who may want a lock that is held for the fork (libio's list; the caller's, of the
 * allocator): nothing is held any more, and the caller, who lets go of his too, rests before he tries again. */
bool xm_fork_prepare(uint64_t wait_ns);
/* After a try that waited wait_ns: a pause in which those inside get what they want. How long to wait next. */
uint64_t xm_fork_rest(uint64_t wait_ns);
void xm_fork_parent(void);
/* registers the mappings with a userfaultfd of the child, makes its page table, opens links. No malloc. */
void xm_fork_child(void);
/* second part in the child, when malloc works again (after the allocator's own child handler): starts threads */
void xm_fork_child_threads(void);

/* Descriptors of the runtime (userfaultfd, sockets ...), which programs must not close by accident. */
bool xm_fd_is_ours(int fd);
/* Moves fd to a high number and remembers it as ours; the new number. Between xm_fd_borrow(), before fd was opened, and
 * xm_fd_return(). Not in a child of vfork: the table of ours is its parent's. */
int xm_fd_place(int fd);
/* Moves the runtime's descriptor fd elsewhere because the program wants that number; 0 or -errno. */
int xm_fd_move_away(int fd);
/* largest descriptor number of ours + 1, and whether any of ours lies in [lo, hi] */
bool xm_fd_any_in(unsigned lo, unsigned hi);
/* next descriptor of ours >= from, or -1: to split a close_range around them */
int xm_fd_next_ours(int from);

/* The program is about to use an interface by which the kernel pins user pages (O_DIRECT, AIO, io_uring,
 * vmsplice, MSG_ZEROCOPY ...): from the return of this call on pinned pages are never evicted. */
void xm_pins_seen(const char *by);

#endif
