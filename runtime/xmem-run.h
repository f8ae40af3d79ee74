/* SPDX-License-Identifier: Apache-2.0 */
/* xmem-run.h - what the parts of xmem-run share: options and exit statuses (xmem-run.c), whether a command can
 * be covered (cover.c), running it (xmem-run-child.c), --check (xmem-run-check.c). */
#ifndef XM_XMEM_RUN_H
#define XM_XMEM_RUN_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "opt.h"
#include "runtime/cover.h"
#include "runtime/keeper.h"

#define XM_RUN_FAILED 125 /* xmem-run itself failed */
#define XM_RUN_NOT_EXECUTABLE 126
#define XM_RUN_NOT_FOUND 127

#define XM_RUN_LOCAL_MIN (4ull << 20)
#define XM_RUN_UNSET UINT64_MAX /* --local, --size: not given; 0 is a value, and too small */

struct run_options {
	uint64_t local_bytes, size_bytes, min_map_bytes, stall_ns, lost_timeout_ns, handlers;
	int fault, evict, prefetch, log_level;
	struct xm_opt_list appliances;
	const char *stats; /* NULL: none; "": standard error; else a file */
	const char *mask, *inject;
	bool strict, check, verify;
};

/* ---- xmem-run.c: where the other parts of the installation are ---- */

/* Fills path (PATH_MAX) with the absolute name of the preload object / of the appliance program. 0; -ENOENT (path
 * then holds where it was last looked for), -ENOEXEC: that file is no preload object. */
int run_find_preload(char *path);
int run_find_appliance(char *path);

/* ---- xmem-run-child.c ---- */

struct run_child {
	char path[PATH_MAX];
	char **argv;
	const char *preload; /* NULL: without */
	const char *family;
	bool by_signal; /* fault mode signal */
	bool strict; /* also what it starts ends where its runtime cannot start */
	pid_t pid;
	int go;	    /* the command starts when this is written, dies when it is closed */
	int failed; /* carries errno of a failed exec */
};

/* Remembers signal dispositions and mask, blocks what has to be forwarded. Before anything is forked. */
void run_signals_init(void);
/* Forks the command; it waits for run_child_go. 0, -errno. */
int run_child_start(struct run_child *c);
/* Lets it execute: 0, or the -errno that exec gave. */
int run_child_go(struct run_child *c);
/* Waits for its end, passing signals and stops on. Returns its wait status. */
int run_child_wait(struct run_child *c);
/* Ends this process as the command ended. */
void run_exit_like(int wait_status) __attribute__((noreturn));

/* ---- xmem-run-check.c ---- */

/* Whether a runtime started by this user would have its userfaultfd. 0; -errno after one line on stderr. */
int run_check_access(uint32_t masked_features, bool by_signal);
/* Prints what this machine lacks; the exit status: 0, or XM_RUN_FAILED when commands could not be run. */
int run_check(const struct run_options *o);

#endif
