/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_verbs.h - the connections of one-sided RDMA: the appliance accepts them, keeps apart what they can reach,
 * and takes them down; the reads, writes and atomics themselves are the device's work.
 */
#ifndef XM_SERVE_VERBS_H
#define XM_SERVE_VERBS_H

#include <stdint.h>

struct xm_appliance;
struct xm_listener;
struct xm_verbs;

/* -ENODEV: no RDMA device here; -errno */
int xm_verbs_create(struct xm_appliance *a, struct xm_verbs **out);
/* Listens for control connections (*out, as xm_listen()) and at the same address and port for those of RDMA; before
 * xm_verbs_start(). 0; -errno with one line in why (XM_WHY_MAX); v NULL: that there is no device */
int xm_verbs_listen(struct xm_verbs *v, const char *uri, struct xm_listener *out, char *why);
/* Starts the verbs thread. 0; -errno */
int xm_verbs_start(struct xm_verbs *v);
/* Ends the thread, the listeners and every connection. NULL is fine, as for the next two. */
void xm_verbs_stop(struct xm_verbs *v);
/* After xm_verbs_stop() and when every domain is gone. */
void xm_verbs_destroy(struct xm_verbs *v);
/* What the verbs thread shall know. The first three: what became of a process's control connection (its link id; 0: not
 * told). What it has over RDMA ends when it said bye, or when that has not come back within the lease. SESSION_OVER: the
 * session (control is 0) is not in the registry any more, and every connection of it ends.
 * The thread that starts and stops the verbs thread; at once, without waiting; v NULL is fine. */
enum xm_verbs_notice {
	XM_VERBS_CONTROL_BYE,
	XM_VERBS_CONTROL_GONE,
	XM_VERBS_CONTROL_BACK,
	XM_VERBS_SESSION_OVER
};
void xm_verbs_notice(struct xm_verbs *v, enum xm_verbs_notice what, uint64_t session, uint64_t control);

#endif
