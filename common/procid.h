/* SPDX-License-Identifier: Apache-2.0 */
/*
 * procid.h - names one process of one run of one host, so that a peer on the same host can tell for certain
 * that it is dead. A pid alone is reused; pid + start time + boot + pid namespace is not.
 */
#ifndef XM_PROCID_H
#define XM_PROCID_H

#include <stdbool.h>
#include <stdint.h>

struct xm_procid {
	uint32_t pid;	     /* 0: unknown */
	uint64_t start_time; /* field 22 of /proc/PID/stat, clock ticks since boot */
	uint64_t boot_hash;  /* of /proc/sys/kernel/random/boot_id */
	uint64_t pidns;	     /* inode of /proc/self/ns/pid */
};

enum xm_proc_state { XM_PROC_UNKNOWN, XM_PROC_ALIVE, XM_PROC_DEAD };

/* This process. Fields stay 0 where /proc does not say. No malloc, no stdio; reads /proc. */
void xm_procid_self(struct xm_procid *out);
/* What can be said about `id` from here. UNKNOWN when it belongs to another host, boot or pid namespace,
 * or /proc is missing. A zombie counts as dead: its descriptors are closed. `self` as from xm_procid_self. */
enum xm_proc_state xm_procid_check(const struct xm_procid *self, const struct xm_procid *id);
/* Whether no process of this pid (as seen from here) runs any more; a zombie does not. For who noted the pid a moment ago
 * and minds no more than that another process may have it by now. Where /proc is missing zombies are not known. */
bool xm_pid_gone(int pid);

#endif
