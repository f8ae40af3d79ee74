/* SPDX-License-Identifier: Apache-2.0 */
/* family_internal.h - what family.c, family_reap.c, the keeper and xmem-top share, and nobody else needs. */
#ifndef XM_FAMILY_INTERNAL_H
#define XM_FAMILY_INTERNAL_H

#include "runtime/family.h"

/* How long slots of a dead process rest where appliances are reached over a network: its last write may sit
 * in a socket's queue (a few MiB: milliseconds), and must not land on the slot's next user. */
#define XM_NETWORK_GRACE_NS 1000000000ull

/* Takes the right to change an entry's state (xm_proc.owner); false at once when another living process, or
 * another thread of this one, has it. */
bool xm_proc_lock(struct xm_family *f, struct xm_proc *p);
void xm_proc_unlock(struct xm_proc *p);

/* Gives up every lock of the family that a process of the family's pid namespace holds: its threads that did are gone. */
void xm_family_unlock_all_of(struct xm_family *f, int32_t pid);

/* *level = max(*level, v), atomically */
void xm_raise_u64(uint64_t *level, uint64_t v);
/* Subtracts at most what is there; returns what was subtracted. */
uint64_t xm_sub_to_zero(uint64_t *level, uint64_t v);

/* Connects to the keeper and sends one request: the socket, or -errno (-ECONNREFUSED: no such keeper). The
 * caller closes it. Blocks <= 5 s. No malloc. */
int xm_keeper_call(const char *env, enum xm_keeper_op op, uint32_t index, const char *text);
/* The descriptor that answers GET or TOP, or -1 and *err. */
int xm_keeper_receive(int sock, int *err);

#endif
