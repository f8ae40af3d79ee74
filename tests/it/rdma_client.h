/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_client.h - clients of verbs that speak the protocol by themselves: control connections, connections of rdma_cm, one
 * work request at a time, and checks that print a line each. For programs with one thread.
 */
#ifndef XM_RDMA_CLIENT_H
#define XM_RDMA_CLIENT_H

#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define SLAB (1u << 20)
#define WAIT_MS 10000
#define SILENT (-1000) /* no answer within WAIT_MS */

static struct sockaddr_in server;
static int failures;
static struct xm_wire_msg in, out;
static uint32_t sequence;

static inline void check(const char *what, bool holds, long value)
{
	printf("%s: %s (%ld)\n", holds ? "ok" : "FAILED", what, value);
	fflush(stdout);
	failures += !holds;
}

static inline void expect(const char *what, long got, long want)
{
	check(what, got == want, got);
}

static inline void give_up(const char *what)
{
	printf("FAILED: %s: %s\n", what, strerror(errno));
	exit(1);
}

static inline uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- control ------------------------------------------------------------------------------------------ */

struct session {
	int fd;
	uint64_t id;
	uint8_t token[16];
};

/* The status of the reply, which is in `in`. */
static inline int ask(struct session *s, unsigned type)
{
	static uint8_t bytes[XM_WIRE_MAX];
	struct xm_wire_header h;
	int len;

	out.h = (struct xm_wire_header){ .type = (uint16_t)type, .seq = ++sequence };
	len = xm_wire_encode(&out, bytes, sizeof(bytes));
	if (len < 0 || send(s->fd, bytes, (size_t)len, MSG_NOSIGNAL) != len)
		give_up("send");
	if (recv(s->fd, bytes, XM_WIRE_HEADER, MSG_WAITALL) != XM_WIRE_HEADER)
		give_up("receive");
	if (xm_wire_decode_header(bytes, XM_WIRE_HEADER, &h) < 0)
		give_up("header");
	len = (int)(h.length - XM_WIRE_HEADER);
	if (len && recv(s->fd, bytes + XM_WIRE_HEADER, (size_t)len, MSG_WAITALL) != len)
		give_up("receive");
	if (xm_wire_decode(bytes, h.length, &in) < 0)
		give_up("decode");
	return in.h.status;
}

/* A session of its own, or a further control connection of one; link names it, 0: not told. */
static inline void attach(struct session *s, const struct session *to, uint64_t link)
{
	struct session none = { 0 };

	memset(s, 0, sizeof(*s));
	to = to ? to : &none;
	s->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&server, sizeof(server)) < 0)
		give_up("connect");
	memset(&out.u, 0, sizeof(out.u));
	out.u.hello = (struct xm_wire_hello){ .magic = XM_WIRE_MAGIC,
					      .major = XM_WIRE_MAJOR,
					      .minor = XM_WIRE_MINOR,
					      .role = XM_WIRE_ROLE_CONTROL,
					      .session = to->id,
					      .name = "raw",
					      .link = link };
	memcpy(out.u.hello.token, to->token, sizeof(to->token));
	xm_procid_self(&out.u.hello.proc);
	if (ask(s, XM_WIRE_HELLO) < 0)
		give_up("hello");
	s->id = in.u.hello_reply.session;
	memcpy(s->token, in.u.hello_reply.token, sizeof(s->token));
}

static inline void enter(struct session *s)
{
	attach(s, NULL, 0);
}

static inline void leave(struct session *s)
{
	ask(s, XM_WIRE_BYE);
	close(s->fd);
}

static inline uint64_t create(struct session *s, uint64_t slabs)
{
	memset(&out.u, 0, sizeof(out.u));
	out.u.create.size_bytes = slabs * SLAB;
	if (ask(s, XM_WIRE_REGION_CREATE) < 0)
		give_up("create a region");
	return in.u.region.id;
}

static inline int ask_slabs(struct session *s, unsigned type, uint64_t region, uint64_t first, uint64_t count)
{
	memset(&out.u, 0, sizeof(out.u));
	out.u.slabs = (struct xm_wire_slabs){ region, first, count };
	return ask(s, type);
}

static inline int ask_key(struct session *s, uint64_t region, uint64_t slab, struct xm_wire_key *key)
{
	int ret = ask_slabs(s, XM_WIRE_SLAB_KEYS, region, slab, 1);

	if (ret == 0)
		*key = in.u.keys.key[0];
	return ret;
}

/* ---- verbs -------------------------------------------------------------------------------------------- */

struct wire_to {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	uint8_t *page;
};

static inline int event(struct wire_to *w, enum rdma_cm_event_type want, struct xm_wire_rdma_reply *reply,
		 int wait_ms)
{
	struct pollfd p = { .fd = w->channel->fd, .events = POLLIN };
	struct rdma_cm_event *ev;
	int ret;

	if (poll(&p, 1, wait_ms) != 1)
		return SILENT;
	if (rdma_get_cm_event(w->channel, &ev) < 0)
		return -errno;
	ret = ev->event == want ? 0 : -EIO;
	if (reply) {
		memset(reply, 0, sizeof(*reply));
		if (ev->param.conn.private_data)
			xm_wire_get_rdma_reply(ev->param.conn.private_data, ev->param.conn.private_data_len,
					       reply);
		if (ret < 0 && reply->status < 0)
			ret = reply->status;
	}
	rdma_ack_cm_event(ev);
	return ret;
}

static inline void resolve(struct wire_to *w)
{
	struct ibv_qp_init_attr attr = { .cap = { 16, 16, 1, 1, 0 }, .qp_type = IBV_QPT_RC };

	memset(w, 0, sizeof(*w));
	w->channel = rdma_create_event_channel();
	if (!w->channel || rdma_create_id(w->channel, &w->id, NULL, RDMA_PS_TCP) < 0)
		give_up("rdma_create_id");
	if (rdma_resolve_addr(w->id, NULL, (struct sockaddr *)&server, 2000) < 0 ||
	    event(w, RDMA_CM_EVENT_ADDR_RESOLVED, NULL, WAIT_MS) < 0 || rdma_resolve_route(w->id, 2000) < 0 ||
	    event(w, RDMA_CM_EVENT_ROUTE_RESOLVED, NULL, WAIT_MS) < 0)
		give_up("resolve");
	w->pd = ibv_alloc_pd(w->id->verbs);
	w->cq = ibv_create_cq(w->id->verbs, 16, NULL, NULL, 0);
	w->page = aligned_alloc(PAGE, PAGE);
	attr.send_cq = attr.recv_cq = w->cq;
	if (!w->pd || !w->cq || !w->page || rdma_create_qp(w->id, w->pd, &attr) < 0)
		give_up("queue pair");
	w->mr = ibv_reg_mr(w->pd, w->page, PAGE, IBV_ACCESS_LOCAL_WRITE);
	if (!w->mr)
		give_up("register");
}

/* 0; the appliance's status; SILENT */
static inline int say_hello(struct wire_to *w, const void *bytes, uint8_t len)
{
	struct rdma_conn_param p = { .private_data = bytes,
				     .private_data_len = len,
				     .responder_resources = 0,
				     .initiator_depth = 4,
				     .retry_count = 2,
				     .rnr_retry_count = 7 };
	struct xm_wire_rdma_reply reply;

	resolve(w);
	if (rdma_connect(w->id, &p) < 0)
		give_up("rdma_connect");
	return event(w, RDMA_CM_EVENT_ESTABLISHED, &reply, WAIT_MS);
}

static inline void fill_hello(const struct session *s, uint64_t link, struct xm_wire_rdma_hello *h)
{
	*h = (struct xm_wire_rdma_hello){
		.major = XM_WIRE_MAJOR, .minor = XM_WIRE_MINOR, .session = s->id, .link = link
	};
	memcpy(h->token, s->token, sizeof(h->token));
}

static inline int join_for(struct wire_to *w, const struct session *s, uint64_t link, uint64_t control)
{
	uint8_t bytes[XM_WIRE_RDMA_HELLO];
	struct xm_wire_rdma_hello h;

	fill_hello(s, link, &h);
	h.control = control;
	xm_wire_put_rdma_hello(bytes, &h);
	return say_hello(w, bytes, sizeof(bytes));
}

static inline int join(struct wire_to *w, const struct session *s, uint64_t link)
{
	return join_for(w, s, link, 0);
}

static inline void hang_up(struct wire_to *w)
{
	if (w->id->qp)
		rdma_destroy_qp(w->id);
	ibv_dereg_mr(w->mr);
	ibv_destroy_cq(w->cq);
	ibv_dealloc_pd(w->pd);
	rdma_destroy_id(w->id);
	rdma_destroy_event_channel(w->channel);
	free(w->page);
}

/* The work completion's status; SILENT. */
static inline int perform(struct wire_to *w, struct ibv_send_wr *wr, uint32_t len)
{
	struct ibv_sge sge = { (uintptr_t)w->page, len, w->mr->lkey };
	uint64_t end = now_us() + WAIT_MS * 1000;
	struct ibv_send_wr *bad;
	struct ibv_wc wc;

	wr->sg_list = &sge;
	wr->num_sge = 1;
	wr->send_flags = IBV_SEND_SIGNALED;
	if (ibv_post_send(w->id->qp, wr, &bad))
		return -errno;
	while (now_us() < end)
		if (ibv_poll_cq(w->cq, 1, &wc) == 1)
			return wc.status;
	return SILENT;
}

static inline int transfer(struct wire_to *w, enum ibv_wr_opcode op, const struct xm_wire_key *key, uint64_t off)
{
	struct ibv_send_wr wr = { .opcode = op,
				  .wr.rdma = { .remote_addr = key->addr + off, .rkey = key->rkey } };

	return perform(w, &wr, PAGE);
}

static inline int atomic(struct wire_to *w, enum ibv_wr_opcode op, const struct xm_wire_key *key,
		  uint64_t compare_add, uint64_t swap)
{
	struct ibv_send_wr wr = { .opcode = op, .wr.atomic = { key->addr, compare_add, swap, key->rkey } };

	return perform(w, &wr, 8);
}

static inline uint64_t word(const struct wire_to *w)
{
	uint64_t value;

	memcpy(&value, w->page, sizeof(value));
	return value;
}

/* How many objects of a kind the host's devices have ("qp", "mr", ...). */
static inline long objects(const char *kind)
{
	char line[256], *at;
	FILE *f = popen("rdma res", "r");
	long n = -1;

	while (f && fgets(line, sizeof(line), f)) {
		char name[16];

		snprintf(name, sizeof(name), " %s ", kind);
		at = strstr(line, name);
		if (at)
			n = atol(at + strlen(name));
	}
	if (f)
		pclose(f);
	return n;
}

/* Until there are that many, or 12 s have passed. What there are. */
static inline long settled(const char *kind, long want)
{
	uint64_t end = now_us() + 12000000;
	long n;

	while ((n = objects(kind)) != want && now_us() < end)
		usleep(100000);
	return n;
}

/* The appliance's address. */
static inline void set_server(char **argv)
{
	server.sin_family = AF_INET;
	server.sin_port = htons((uint16_t)atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &server.sin_addr);
}

static inline int verdict(void)
{
	printf("%d failed\n", failures);
	return failures ? 1 : 0;
}

#endif
