/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the settings of xmem-appliance and where they come from. */
#ifndef XM_OPTIONS_H
#define XM_OPTIONS_H

#include "log.h"
#include "opt.h"
#include "appliance/slab.h"

struct xm_options {
	struct xm_opt_list listen;
	uint64_t memory_bytes, slab_bytes, lease_ns, warm, ready_fd;
	int huge;      /* 0 off, 1 2M, 2 1G */
	int log_level; /* enum xm_log_level */
	const char *numa, *config, *name;
	struct xm_slab_kind kind; /* of slab_bytes, huge and numa, checked */
};

#define XM_READY_FD_NONE 1000000u

/* Defaults, then the configuration file, then the command line. 0; 1: --help was answered; -EINVAL, -ENOENT:
 * one line was printed. */
int xm_options_load(struct xm_options *out, int argc, char **argv);

#endif
