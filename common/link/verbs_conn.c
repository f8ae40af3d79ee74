/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_conn.c - connections by rdma_cm, and the device of a peer.
 *
 *   address -> route -> device opened, queue pair made (INIT) -> connect, with who we are as private data
 *     -> response -> RTR, RTS -> established        any other event, or none in time: taken down again
 *
 * The queue pair belongs to a context of our own (see verbs_impl.h), so librdmacm does not drive it: its states are
 * changed here, with the attributes that rdma_init_qp_attr() gives. Blocks only in next_event(), until the deadline.
 */
#include "link/verbs_impl.h"

#include "log.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static void say(char *why, const struct xm_peer *p, const char *what, const char *more)
{
	if (why)
		xm_snprintf(why, XM_WHY_MAX, "%.70s: %s%s", p->uri_text, what, more);
}

/* Descriptors that the libraries opened go where the program does not look for its own. */
static void place(const struct xm_peer *p, int *fd)
{
	int placed = p->place_fd ? p->place_fd(*fd) : *fd;

	if (placed >= 0)
		*fd = placed;
}

static void no_wait(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* ---- device ------------------------------------------------------------------------------------------- */

static struct ibv_context *open_by_name(const char *name)
{
	struct ibv_device **list = xm_rdma.get_device_list(NULL);
	struct ibv_context *context = NULL;

	for (int i = 0; list && list[i]; i++)
		if (strcmp(xm_rdma.get_device_name(list[i]), name) == 0)
			context = xm_rdma.open_device(list[i]);
	if (list)
		xm_rdma.free_device_list(list);
	return context;
}

static int open_device(struct xm_peer *p, const char *name, struct xm_verbs_device **out)
{
	struct xm_verbs_device *d = xm_link_alloc(sizeof(*d));
	int ret = -ENOMEM;

	if (!d)
		return ret;
	xm_snprintf(d->name, sizeof(d->name), "%s", name);
	d->context = open_by_name(name);
	if (!d->context) {
		ret = -ENODEV;
		goto release;
	}
	place(p, &d->context->cmd_fd);
	place(p, &d->context->async_fd);
	if (xm_rdma.query_device(d->context, &d->attr) != 0) {
		ret = -ENODEV;
		goto close_device;
	}
	d->pd = xm_rdma.alloc_pd(d->context);
	if (!d->pd)
		goto close_device;
	*out = d;
	return 0;
close_device:
	xm_rdma.close_device(d->context);
release:
	xm_link_release(d, sizeof(*d));
	return ret;
}

int xm_verbs_device_get(struct xm_peer *p, struct rdma_cm_id *id, struct xm_verbs_device **out)
{
	const char *name = xm_rdma.get_device_name(id->verbs->device);
	int ret = 0;

	pthread_mutex_lock(&p->mutex);
	if (!p->verbs) {
		/* librdmacm's own context of the device, which the program must not close either */
		place(p, &id->verbs->cmd_fd);
		place(p, &id->verbs->async_fd);
		ret = open_device(p, name, &p->verbs);
	} else if (strcmp(p->verbs->name, name) != 0) {
		ret = -ENODEV;
	}
	*out = p->verbs;
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_verbs_device_close(struct xm_peer *p)
{
	if (!p->verbs)
		return;
	xm_rdma.dealloc_pd(p->verbs->pd);
	xm_rdma.close_device(p->verbs->context);
	xm_link_release(p->verbs, sizeof(*p->verbs));
	p->verbs = NULL;
}

void xm_verbs_device_forget(struct xm_peer *p)
{
	if (!p->verbs)
		return;
	xm_sys_close(p->verbs->context->cmd_fd);
	xm_sys_close(p->verbs->context->async_fd);
	xm_link_release(p->verbs, sizeof(*p->verbs));
	p->verbs = NULL;
}

int xm_verbs_queues_open(struct xm_peer *p, struct xm_verbs_device *dev, struct xm_verbs_queues *q)
{
	if (q->cq)
		return 0;
	q->channel = xm_rdma.create_comp_channel(dev->context);
	if (!q->channel)
		return -ENOMEM;
	place(p, &q->channel->fd);
	no_wait(q->channel->fd);
	q->cq = xm_rdma.create_cq(dev->context, (int)(2 * XM_VERBS_SEND_DEPTH), NULL, q->channel, 0);
	if (q->cq)
		return 0;
	xm_rdma.destroy_comp_channel(q->channel);
	q->channel = NULL;
	return -ENOMEM;
}

void xm_verbs_queues_close(struct xm_verbs_queues *q)
{
	if (!q->cq)
		return;
	xm_rdma.destroy_cq(q->cq);
	xm_rdma.destroy_comp_channel(q->channel);
	*q = (struct xm_verbs_queues){ 0 };
}

/* ---- one connection ----------------------------------------------------------------------------------- */

/* The next event of the channel, which is to be `want`. *reply: what came as private data, for a response or a
 * refusal. 0; -ETIMEDOUT; what the event means. */
static int next_event(struct xm_verbs_conn *c, enum rdma_cm_event_type want, uint64_t deadline_ns,
		      struct xm_wire_rdma_reply *reply)
{
	struct rdma_cm_event *e;
	int ret = -ETIMEDOUT;

	for (;;) {
		struct pollfd pfd = { .fd = c->events->fd, .events = POLLIN };
		uint64_t now;

		if (xm_rdma.get_cm_event(c->events, &e) == 0)
			break;
		now = xm_now_ns();
		if ((errno != EAGAIN && errno != EINTR) || now >= deadline_ns)
			return errno != EAGAIN && errno != EINTR ? -errno : -ETIMEDOUT;
		xm_sys_poll(&pfd, 1, deadline_ns - now);
	}
	if (reply && xm_wire_get_rdma_reply(e->param.conn.private_data, e->param.conn.private_data_len, reply) < 0)
		reply->status = -EPROTO;
	if (e->event == want) {
		ret = 0;
	} else {
		switch (e->event) {
		case RDMA_CM_EVENT_ADDR_ERROR: ret = -ENODEV; break;
		case RDMA_CM_EVENT_ROUTE_ERROR:
		case RDMA_CM_EVENT_UNREACHABLE: ret = -EHOSTUNREACH; break;
		/* the consumer's word is status 28 (InfiniBand 1.4, 12.6.7.2); others mean that nobody listens */
		case RDMA_CM_EVENT_REJECTED: ret = reply && e->status == 28 ? -EACCES : -ECONNREFUSED; break;
		default: ret = -ECONNRESET;
		}
	}
	xm_rdma.ack_cm_event(e);
	return ret;
}

static int change_state(struct xm_verbs_conn *c, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = { .qp_state = state };
	int mask;

	if (xm_rdma.init_qp_attr(c->id, &attr, &mask) < 0)
		return -errno;
	if (state == IBV_QPS_RTS) {
		attr.timeout = XM_VERBS_ACK_TIMEOUT;
		attr.retry_cnt = XM_VERBS_RETRIES;
	}
	return -xm_rdma.modify_qp(c->qp, &attr, mask);
}

static int make_queue_pair(struct xm_verbs_conn *c, struct xm_verbs_device *dev, struct xm_verbs_queues *q)
{
	struct ibv_qp_init_attr init = {
		.send_cq = q->cq,
		.recv_cq = q->cq,
		.cap = { .max_send_wr = XM_VERBS_SEND_DEPTH, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1,
			 .max_inline_data = XM_VERBS_INLINE },
		.qp_type = IBV_QPT_RC,
	};

	c->qp = xm_rdma.create_qp(dev->pd, &init);
	if (!c->qp)
		return -errno;
	q->inline_bytes = init.cap.max_inline_data;
	return change_state(c, IBV_QPS_INIT);
}

static int introduce(struct xm_peer *p, uint64_t link, struct xm_verbs_conn *c, const struct xm_verbs_device *dev)
{
	struct xm_wire_rdma_hello hello = { .major = XM_WIRE_MAJOR, .minor = XM_WIRE_MINOR, .link = link };
	struct rdma_conn_param param = {
		.initiator_depth = (uint8_t)xm_min(dev->attr.max_qp_init_rd_atom, 255),
		.retry_count = XM_VERBS_RETRIES,
		.rnr_retry_count = 7,
		.qp_num = c->qp->qp_num,
	};
	uint8_t bytes[XM_WIRE_RDMA_HELLO];

	pthread_mutex_lock(&p->mutex);
	hello.session = p->info.session.id;
	memcpy(hello.token, p->info.session.token, sizeof(hello.token));
	hello.control = p->link;
	pthread_mutex_unlock(&p->mutex);
	xm_wire_put_rdma_hello(bytes, &hello);
	param.private_data = bytes;
	param.private_data_len = sizeof(bytes);
	return xm_rdma.connect(c->id, &param) < 0 ? -errno : 0;
}

/* Address and route: the device is known afterwards. */
static int find_way(struct xm_peer *p, uint64_t deadline_ns, struct xm_verbs_conn *c)
{
	uint64_t now = xm_now_ns();
	int ms = now < deadline_ns ? (int)xm_min((deadline_ns - now) / 1000000 + 1, 60000ull) : 1;
	int ret;

	if (xm_rdma.create_id(c->events, &c->id, NULL, RDMA_PS_TCP) < 0)
		return -errno;
	if (xm_rdma.resolve_addr(c->id, NULL, (struct sockaddr *)&p->addr, ms) < 0)
		return errno == ENODEV || errno == EADDRNOTAVAIL ? -ENODEV : -errno;
	ret = next_event(c, RDMA_CM_EVENT_ADDR_RESOLVED, deadline_ns, NULL);
	if (ret < 0)
		return ret;
	if (xm_rdma.resolve_route(c->id, ms) < 0)
		return -errno;
	return next_event(c, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline_ns, NULL);
}

static int shake_hands(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, struct xm_verbs_conn *c,
		       const struct xm_verbs_device *dev)
{
	struct xm_wire_rdma_reply reply = { 0 };
	int ret = introduce(p, link, c, dev);

	if (ret == 0)
		ret = next_event(c, RDMA_CM_EVENT_CONNECT_RESPONSE, deadline_ns, &reply);
	if (ret == -EACCES || ret == 0)
		ret = reply.status;
	if (ret == 0 && reply.major != XM_WIRE_MAJOR)
		ret = -EPROTONOSUPPORT;
	if (ret == 0)
		ret = change_state(c, IBV_QPS_RTR);
	if (ret == 0)
		ret = change_state(c, IBV_QPS_RTS);
	if (ret == 0 && xm_rdma.establish(c->id) < 0)
		ret = -errno;
	return ret;
}

static void explain(const struct xm_peer *p, int err, char *why)
{
	switch (-err) {
	case ENODEV:
		say(why, p, "no RDMA device reaches that address",
		    " (see 'rdma link'; modules ib_uverbs and rdma_ucm; or use tcp:)");
		break;
	case ECONNREFUSED: say(why, p, "nobody listens there for RDMA", " (does the appliance have --listen verbs:?)"); break;
	case ETIMEDOUT: say(why, p, "no answer over RDMA in time", " (check address and firewall: UDP port 4791)"); break;
	case ENOMEM:
		say(why, p, "no memory can be registered", " (the limit of locked memory: ulimit -l)");
		break;
	case EPROTO: say(why, p, "what answers over RDMA is no xmem appliance", " (check the port)"); break;
	case EPROTONOSUPPORT:
		say(why, p, "what answers over RDMA speaks another protocol version", " (update one)");
		break;
	default: say(why, p, "cannot connect over RDMA: ", xm_strerror(err));
	}
}

int xm_verbs_connect(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, struct xm_verbs_conn *c,
		     struct xm_verbs_queues *q, char *why)
{
	struct xm_verbs_device *dev = NULL;
	int ret;

	c->events = xm_rdma.create_event_channel();
	if (!c->events) {
		explain(p, -ENODEV, why);
		return -ENODEV;
	}
	place(p, &c->events->fd);
	no_wait(c->events->fd);
	ret = find_way(p, deadline_ns, c);
	if (ret == 0)
		ret = xm_verbs_device_get(p, c->id, &dev);
	if (ret == 0)
		ret = xm_verbs_queues_open(p, dev, q);
	if (ret == 0)
		ret = make_queue_pair(c, dev, q);
	if (ret == 0)
		ret = shake_hands(p, link, deadline_ns, c, dev);
	if (ret < 0) {
		explain(p, ret, why);
		xm_verbs_disconnect(c);
	}
	return ret;
}

void xm_verbs_disconnect(struct xm_verbs_conn *c)
{
	if (c->qp) {
		xm_rdma.disconnect(c->id); /* so that the appliance need not find out */
		xm_rdma.destroy_qp(c->qp);
	}
	if (c->id)
		xm_rdma.destroy_id(c->id);
	if (c->events)
		xm_rdma.destroy_event_channel(c->events);
	*c = (struct xm_verbs_conn){ 0 };
}

void xm_verbs_conn_forget(struct xm_verbs_conn *c, struct xm_verbs_queues *q)
{
	if (c->events)
		xm_sys_close(c->events->fd);
	if (q->channel)
		xm_sys_close(q->channel->fd);
	*c = (struct xm_verbs_conn){ 0 };
	*q = (struct xm_verbs_queues){ 0 };
}

bool xm_verbs_conn_ended(struct xm_verbs_conn *c)
{
	struct pollfd pfd = { .fd = c->events->fd, .events = POLLIN };
	struct rdma_cm_event *e;
	bool ended = false;

	if (xm_sys_poll(&pfd, 1, 0) <= 0)
		return false;
	while (!ended && xm_rdma.get_cm_event(c->events, &e) == 0) {
		ended = e->event == RDMA_CM_EVENT_DISCONNECTED || e->event == RDMA_CM_EVENT_DEVICE_REMOVAL ||
			e->event == RDMA_CM_EVENT_TIMEWAIT_EXIT;
		xm_rdma.ack_cm_event(e);
	}
	return ended;
}
