/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_impl.h - what the files of the verbs transport share. Not for anyone else.
 *
 *   verbs.c       the link: operations, staging, work requests, completions
 *   verbs_conn.c  the device of a peer, connections by rdma_cm
 *   rdma_lib.c    the libraries, loaded when needed        peer_slabs.c  keys of slabs
 *
 *   peer ── xm_verbs_device: context, protection domain ── link ── queue pair, completion queue, staging
 *
 * The context is not librdmacm's own, which a process shares with its children: here a child leaves the parent's
 * objects alone (closing its copies of the descriptors) and opens the device anew.
 */
#ifndef XM_VERBS_IMPL_H
#define XM_VERBS_IMPL_H

#include "link/peer_impl.h"
#include "link/rdma_lib.h"

#include <stdbool.h>

#define XM_VERBS_SEND_DEPTH 256u     /* work requests in the send queue; a power of two */
#define XM_VERBS_BLOCK (16u << 10)   /* staging of one work request */
#define XM_VERBS_BLOCKS 128u	     /* 2 MiB a link */
#define XM_VERBS_INLINE 64u	     /* bytes of a write that travel in the work request itself */
#define XM_VERBS_LENT 4u	     /* buffers of the caller's that are registered */

/* A packet that is not acknowledged is sent again after 4.096 us * 2^ACK_TIMEOUT (InfiniBand 1.4, 9.7.6.1.3), and
 * the connection given up after RETRIES more: at the least 67 ms * 4, at the most four times that (same section).
 * The defaults of rdma_cm are seconds to minutes. */
#define XM_VERBS_ACK_TIMEOUT 14u
#define XM_VERBS_RETRIES 3u

struct xm_verbs_device {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_device_attr attr;
	char name[64];
};

/* One connection; zeroed is closed. */
struct xm_verbs_conn {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
};

struct xm_verbs_queues {
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	unsigned inline_bytes; /* what the queue pair takes */
};

/* The device by which `id` reaches the appliance, opened at the first call. Takes the peer's mutex. 0; -ENODEV when
 * the address is behind another device than before; -ENOMEM; -errno. */
int xm_verbs_device_get(struct xm_peer *p, struct rdma_cm_id *id, struct xm_verbs_device **out);
/* Makes the completion queue and its channel. 0; -errno */
int xm_verbs_queues_open(struct xm_peer *p, struct xm_verbs_device *dev, struct xm_verbs_queues *q);
void xm_verbs_queues_close(struct xm_verbs_queues *q);

/* Connects link `link`. *q is made at the first call. Blocks until deadline_ns. 0; -ENOLINK and what is in
 * xm_wire_rdma_reply; -ETIMEDOUT, -ENODEV; one line in why (may be NULL). */
int xm_verbs_connect(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, struct xm_verbs_conn *c,
		     struct xm_verbs_queues *q, char *why);
/* After this no operation touches local memory any more. */
void xm_verbs_disconnect(struct xm_verbs_conn *c);
/* In a child: closes the descriptors; nothing of the parent's is destroyed. */
void xm_verbs_conn_forget(struct xm_verbs_conn *c, struct xm_verbs_queues *q);
/* Has the other side ended the connection, as far as the connection manager knows? No blocking. */
bool xm_verbs_conn_ended(struct xm_verbs_conn *c);

#endif
