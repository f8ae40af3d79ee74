/* SPDX-License-Identifier: Apache-2.0 */
/* start.h - starting and stopping the runtime on a family that is already there (the API; tests). */
#ifndef XM_START_H
#define XM_START_H

#include "runtime/family.h"

/* Joins fam as this process (env: value of XMEM_FAMILY, or NULL when there is no keeper). The caller has marked
 * its thread (xm_in_runtime). 0; -errno after one line on stderr; the mapping of fam is then the caller's. */
int xm_runtime_start(struct xm_family *fam, const char *env);
/* Ends threads, links and mappings; the external range is unmapped, fam too. No other thread may use it. */
void xm_runtime_stop(void);

#endif
