/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.h - the process that stands behind a family: xmem-run starts it, it lives as long as the command or
 * any process of the family does, also when xmem-run is killed.
 */
#ifndef XM_KEEPER_H
#define XM_KEEPER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/family.h"

struct xm_keeper_setup {
	struct xm_family_config cfg;	  /* appliances 0: a private appliance is started */
	uint64_t private_bytes;		  /* memory of the private appliance */
	char appliance_program[PATH_MAX]; /* of the private appliance, absolute */
};

/* xmem-run's end. */
struct xm_keeper {
	pid_t pid;
	int control;
	struct xm_family *family;
	char env[160]; /* value of XMEM_FAMILY for the command */
};

/* Creates the family object, forks the keeper and waits until it is ready: appliances reached, a first region
 * acquired, socket listening. On failure one line has been printed and nothing is left running. 0 or -errno.
 * To be called while the process has one thread; every descriptor above 2 is closed in the keeper. */
int xm_keeper_start(const struct xm_keeper_setup *setup, struct xm_keeper *out);
/* Tells the keeper which process the command is; before it executes anything. */
void xm_keeper_command(struct xm_keeper *k, pid_t command);
/* The command has ended: the keeper takes back what dead processes hold and asks the appliances for their
 * figures. Returns how many processes of the family go on; 0: the keeper is about to end; -errno: it is gone. */
int xm_keeper_finish(struct xm_keeper *k);
/* Waits (bounded) until a keeper that is about to end has given everything back. */
void xm_keeper_wait(struct xm_keeper *k);

/* ---- the private appliance, also used by xmem-run --check ---- */

struct xm_private_appliance {
	pid_t pid;
	int pidfd;
	int log_fd; /* read end of its stderr */
	char uri[96];
};

/* Starts `program` on an abstract socket of its own; it dies with the calling process. Waits until it listens.
 * 0; -errno and *why (>= 256 bytes) says what, where and what to do. */
int xm_private_appliance_start(const char *program, uint64_t bytes, struct xm_private_appliance *a,
			       char *why);
/* SIGTERM, a bounded wait, SIGKILL. */
void xm_private_appliance_stop(struct xm_private_appliance *a);

#endif
