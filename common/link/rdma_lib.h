/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_lib.h - libibverbs and librdmacm, loaded when the first verbs address is opened: a program whose pages come by
 * shm or tcp shall not have them, and what they bring along, in its address space.
 *
 * Functions of the data path (ibv_post_send, ibv_poll_cq, ibv_req_notify_cq) are inline in verbs.h and call the
 * device's driver directly; the others are called as xm_rdma.NAME. They allocate: in a program with our heap, from
 * local memory, since the calling thread is in the runtime.
 */
#ifndef XM_RDMA_LIB_H
#define XM_RDMA_LIB_H

#include <infiniband/sa.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#define XM_RDMA_FUNCTIONS(X)                                                                                          \
	X(ibv, get_device_list)                                                                                       \
	X(ibv, free_device_list)                                                                                      \
	X(ibv, get_device_name)                                                                                       \
	X(ibv, open_device)                                                                                           \
	X(ibv, close_device)                                                                                          \
	X(ibv, query_device)                                                                                          \
	X(ibv, query_port)                                                                                            \
	X(ibv, alloc_pd)                                                                                              \
	X(ibv, dealloc_pd)                                                                                            \
	X(ibv, reg_mr)                                                                                                \
	X(ibv, dereg_mr)                                                                                              \
	X(ibv, create_comp_channel)                                                                                   \
	X(ibv, destroy_comp_channel)                                                                                  \
	X(ibv, create_cq)                                                                                             \
	X(ibv, destroy_cq)                                                                                            \
	X(ibv, get_cq_event)                                                                                          \
	X(ibv, ack_cq_events)                                                                                         \
	X(ibv, create_qp)                                                                                             \
	X(ibv, modify_qp)                                                                                             \
	X(ibv, destroy_qp)                                                                                            \
	X(rdma, create_event_channel)                                                                                 \
	X(rdma, destroy_event_channel)                                                                                \
	X(rdma, create_id)                                                                                            \
	X(rdma, destroy_id)                                                                                           \
	X(rdma, resolve_addr)                                                                                         \
	X(rdma, resolve_route)                                                                                        \
	X(rdma, set_option)                                                                                           \
	X(rdma, init_qp_attr)                                                                                         \
	X(rdma, connect)                                                                                              \
	X(rdma, establish)                                                                                            \
	X(rdma, disconnect)                                                                                           \
	X(rdma, get_cm_event)                                                                                         \
	X(rdma, ack_cm_event)

struct xm_rdma_lib {
#define X(lib, name) __typeof__(&lib##_##name) name;
	XM_RDMA_FUNCTIONS(X)
#undef X
};

extern struct xm_rdma_lib xm_rdma;

/* Loads both libraries, once a process; any thread. 0; -ENODEV with one line in why (>= 160 bytes, may be NULL). */
int xm_rdma_load(char *why);

#endif
