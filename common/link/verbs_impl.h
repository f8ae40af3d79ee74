/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_impl.h - what the files of the verbs transport share. Not for anyone else.
 *
 *   verbs.c       the link: operations, staging, work requests, completions
 *   verbs_conn.c  the device of a peer, connections by rdma_cm      verbs_way.c  by which device and port
 *   rdma_lib.c    the libraries, loaded when needed                 rdma_sysfs.c what the kernel says of devices
 *   peer_slabs.c  keys of slabs
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

#define XM_VERBS_DEPTH 256	   /* work requests in the send queue, unless the address says another number */
#define XM_VERBS_BLOCK (16u << 10) /* staging of one work request whose memory was not lent */
#define XM_VERBS_BLOCKS 8u	   /* 128 KiB a link, pinned: the runtime lends its own, so they are hardly used */
#define XM_VERBS_INLINE 64u	   /* bytes of a write that travel in the work request itself */
#define XM_VERBS_LENT 4u	   /* buffers of the caller's that are registered */

/* A packet that is not acknowledged is sent again after 4.096 us * 2^ACK_TIMEOUT (InfiniBand 1.4, 9.7.6.1.3), and
 * the connection given up after RETRIES more: at the least 67 ms * 4, at the most four times that (same section).
 * The defaults of rdma_cm are seconds to minutes. */
#define XM_VERBS_ACK_TIMEOUT 14
#define XM_VERBS_RETRIES 3

struct xm_verbs_device {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_device_attr attr;
	int node; /* of its buffers: as the address says, or where the device is; -1: not known */
	char name[64];
};

/* One connection; zeroed is closed. */
struct xm_verbs_conn {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	unsigned gid_index, mtu_bytes; /* of the path */
};

struct xm_verbs_queues {
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	unsigned depth;	       /* of the send queue, a power of two */
	unsigned inline_bytes; /* what the queue pair takes */
};

/* The machine's devices, for xm_rdma.free_device_list(), or NULL. */
struct ibv_device **xm_verbs_devices(void);
/* The device by which `id` reaches the appliance, opened at the first call. Takes the peer's mutex. 0; -ENODEV when
 * the address is behind another device than before; -ENOMEM; -errno. */
int xm_verbs_device_get(struct xm_peer *p, struct rdma_cm_id *id, uint64_t deadline_ns,
			struct xm_verbs_device **out);
/* Makes the completion queue and its channel. 0; -errno */
int xm_verbs_queues_open(struct xm_peer *p, struct xm_verbs_device *dev, struct xm_verbs_queues *q);
void xm_verbs_queues_close(struct xm_verbs_queues *q);

/* What the address says, or else the default. */
static inline int xm_verbs_option(int given, int otherwise)
{
	return given >= 0 ? given : otherwise;
}

/* Resolves address and route to the appliance, by the device, port and GID that the address asks for: c->id has its
 * device afterwards. 0; -EINVAL with one line in why when that cannot be; -errno without one. */
int xm_verbs_find_way(struct xm_peer *p, uint64_t deadline_ns, struct xm_verbs_conn *c, char *why);
/* What connection *c goes by; pinned_bytes is left at 0. */
void xm_verbs_path(struct xm_peer *p, const struct xm_verbs_conn *c, struct xm_link_path *out);
/* The next event of the channel, which is to be `want`. *reply (may be NULL): what came as private data, for a response
 * or a refusal. 0; -ETIMEDOUT; what the event means. */
int xm_verbs_next_event(const struct xm_peer *p, struct xm_verbs_conn *c, enum rdma_cm_event_type want,
			uint64_t deadline_ns, struct xm_wire_rdma_reply *reply);
/* One line: the address, and what the matter is. why may be NULL. */
void xm_verbs_say(char *why, const struct xm_peer *p, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

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
