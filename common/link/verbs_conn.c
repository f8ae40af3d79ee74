/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_conn.c - connections by rdma_cm, and the device of a peer.
 *
 *   address -> route -> device opened, queue pair made (INIT) -> connect, with who we are as private data
 *     -> response -> RTR, RTS -> established        any other event, or none in time: taken down again
 *
 * The queue pair belongs to a context of our own (see verbs_impl.h), so librdmacm does not drive it: its states are
 * changed here, with the attributes that rdma_init_qp_attr() gives. Blocks only in xm_verbs_next_event(), until the
 * deadline.
 */
#include "link/verbs_impl.h"

#include "fdgate.h"
#include "link/rdma_sysfs.h"
#include "log.h"
#include "sys.h"
#include "units.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

void xm_verbs_say(char *why, const struct xm_peer *p, const char *fmt, ...)
{
	char what[XM_WHY_MAX];
	va_list ap;

	if (!why)
		return;
	va_start(ap, fmt);
	xm_vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	/* where, without options */
	xm_snprintf(why, XM_WHY_MAX, "%.*s: %s", (int)xm_min(strcspn(p->uri_text, ","), (size_t)60), p->uri_text, what);
}

/* Held while that context is changed which all threads have in common. */
static pthread_mutex_t placing = PTHREAD_MUTEX_INITIALIZER;

/* Descriptors that the libraries opened go where the program does not look for its own. */
static void place(const struct xm_peer *p, int *fd)
{
	*fd = xm_peer_place(p, *fd);
}

static void no_wait(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* ---- device ------------------------------------------------------------------------------------------- */

struct ibv_device **xm_verbs_devices(void)
{
	struct ibv_device **list;

	xm_fd_borrow();
	list = xm_rdma.get_device_list(NULL);
	xm_fd_return();
	return list;
}

static struct ibv_context *open_by_name(const char *name)
{
	struct ibv_device **list = xm_verbs_devices();
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
	xm_fd_borrow();
	d->context = open_by_name(name);
	if (d->context) {
		place(p, &d->context->cmd_fd);
		place(p, &d->context->async_fd);
	}
	xm_fd_return();
	if (!d->context) {
		ret = -ENODEV;
		goto release;
	}
	if (xm_rdma.query_device(d->context, &d->attr) != 0) {
		ret = -ENODEV;
		goto close_device;
	}
	d->node = xm_verbs_option(p->uri.verbs.numa, xm_rdma_node(name));
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

void xm_verbs_path(struct xm_peer *p, const struct xm_verbs_conn *c, struct xm_link_path *out)
{
	*out = (struct xm_link_path){ .gid_index = c->gid_index, .mtu_bytes = c->mtu_bytes, .node = p->verbs->node };
	xm_snprintf(out->device, sizeof(out->device), "%s", p->verbs->name);
	if (!c->id)
		return;
	out->port = c->id->port_num;
	memcpy(out->gid, &c->id->route.addr.addr.ibaddr.sgid, sizeof(out->gid));
}

int xm_verbs_device_get(struct xm_peer *p, struct rdma_cm_id *id, uint64_t deadline_ns, struct xm_verbs_device **out)
{
	const char *name = xm_rdma.get_device_name(id->verbs->device);
	int ret = xm_peer_lock_until(p, deadline_ns);

	if (ret < 0)
		return ret;
	if (!p->verbs)
		ret = open_device(p, name, &p->verbs);
	else if (strcmp(p->verbs->name, name) != 0)
		ret = -ENODEV;
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
	pthread_mutex_init(&placing, NULL); /* whoever held it does not exist here */
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
	xm_fd_borrow();
	q->channel = xm_rdma.create_comp_channel(dev->context);
	if (q->channel)
		place(p, &q->channel->fd);
	xm_fd_return();
	if (!q->channel)
		return -ENOMEM;
	no_wait(q->channel->fd);
	for (q->depth = (unsigned)xm_verbs_option(p->uri.verbs.depth, XM_VERBS_DEPTH);
	     q->depth > 1 && ((int)q->depth > dev->attr.max_qp_wr || 2 * (int)q->depth > dev->attr.max_cqe);)
		q->depth /= 2;
	q->cq = xm_rdma.create_cq(dev->context, (int)(2 * q->depth), NULL, q->channel, 0);
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

/* An event, at once. With that of the first address librdmacm opens a context of the device, one for all threads, which
 * the program must not close either. */
static int get_event(const struct xm_peer *p, struct xm_verbs_conn *c, struct rdma_cm_event **e)
{
	int ret;

	xm_fd_borrow();
	ret = xm_rdma.get_cm_event(c->events, e) == 0 ? 0 : -errno;
	if (ret == 0 && (*e)->event == RDMA_CM_EVENT_ADDR_RESOLVED && !xm_load(&p->verbs)) {
		pthread_mutex_lock(&placing);
		place(p, &c->id->verbs->cmd_fd);
		place(p, &c->id->verbs->async_fd);
		pthread_mutex_unlock(&placing);
	}
	xm_fd_return();
	return ret;
}

int xm_verbs_next_event(const struct xm_peer *p, struct xm_verbs_conn *c, enum rdma_cm_event_type want,
			uint64_t deadline_ns, struct xm_wire_rdma_reply *reply)
{
	struct rdma_cm_event *e;
	int ret;

	for (;;) {
		struct pollfd pfd = { .fd = c->events->fd, .events = POLLIN };
		uint64_t now;

		ret = get_event(p, c, &e);
		if (ret == 0)
			break;
		now = xm_now_ns();
		if ((ret != -EAGAIN && ret != -EINTR) || now >= deadline_ns)
			return ret != -EAGAIN && ret != -EINTR ? ret : -ETIMEDOUT;
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

static int change_state(const struct xm_peer *p, struct xm_verbs_conn *c, enum ibv_qp_state state)
{
	const struct xm_uri_options *o = &p->uri.verbs;
	struct ibv_qp_attr attr = { .qp_state = state };
	int mask;

	if (xm_rdma.init_qp_attr(c->id, &attr, &mask) < 0)
		return -errno;
	if (state == IBV_QPS_RTR) {
		c->gid_index = attr.ah_attr.grh.sgid_index;
		c->mtu_bytes = 128u << attr.path_mtu; /* IBV_MTU_256 is 1 */
	}
	if (state == IBV_QPS_RTS) {
		attr.timeout = (uint8_t)xm_verbs_option(o->ack_timeout, XM_VERBS_ACK_TIMEOUT);
		attr.retry_cnt = (uint8_t)xm_verbs_option(o->retries, XM_VERBS_RETRIES);
		xm_debug("%s: GID %u, path MTU %u, %u reads at once, an acknowledgement is waited for %llu us %u times",
			 p->uri_text, c->gid_index, c->mtu_bytes, attr.max_rd_atomic, (4096ull << attr.timeout) / 1000,
			 attr.retry_cnt + 1u);
	}
	return -xm_rdma.modify_qp(c->qp, &attr, mask);
}

static int make_queue_pair(struct xm_peer *p, struct xm_verbs_conn *c, struct xm_verbs_device *dev, struct xm_verbs_queues *q)
{
	struct ibv_qp_init_attr init = {
		.send_cq = q->cq,
		.recv_cq = q->cq,
		.cap = { .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1,
			 .max_inline_data = XM_VERBS_INLINE },
		.qp_type = IBV_QPT_RC,
	};

	init.cap.max_send_wr = q->depth;
	c->qp = xm_rdma.create_qp(dev->pd, &init);
	if (!c->qp)
		return -errno;
	q->inline_bytes = init.cap.max_inline_data;
	return change_state(p, c, IBV_QPS_INIT);
}

static int introduce(struct xm_peer *p, uint64_t link, struct xm_verbs_conn *c, const struct xm_verbs_device *dev)
{
	struct xm_wire_rdma_hello hello = { .major = XM_WIRE_MAJOR, .minor = XM_WIRE_MINOR, .link = link };
	struct rdma_conn_param param = {
		.initiator_depth = (uint8_t)xm_min(dev->attr.max_qp_init_rd_atom, xm_verbs_option(p->uri.verbs.reads, 255)),
		.retry_count = (uint8_t)xm_verbs_option(p->uri.verbs.retries, XM_VERBS_RETRIES),
		.rnr_retry_count = 7,
		.qp_num = c->qp->qp_num,
	};
	uint8_t bytes[XM_WIRE_RDMA_HELLO];

	/* these do not change while there are links */
	hello.session = p->info.session.id;
	memcpy(hello.token, p->info.session.token, sizeof(hello.token));
	hello.control = p->link;
	xm_wire_put_rdma_hello(bytes, &hello);
	param.private_data = bytes;
	param.private_data_len = sizeof(bytes);
	return xm_rdma.connect(c->id, &param) < 0 ? -errno : 0;
}

static const char *refusal(int status)
{
	switch (-status) {
	case ESTALE: return "the session is over (its lease has run out, or it was restarted)";
	case EACCES: return "the session is not ours";
	case EUSERS: return "it has too many connections";
	case ENODEV: return "the session goes by another of its RDMA devices";
	case ENOMEM: return "its device has no memory for another connection";
	default: return xm_strerror(status);
	}
}

/* What the other side said, yes or no. `accepted`: by its connection manager. */
static int read_answer(struct xm_peer *p, bool accepted, const struct xm_wire_rdma_reply *r, uint64_t deadline_ns,
		       char *why)
{
	int status = r->status;

	if (status == 0)
		status = !accepted ? -EPROTO : r->major != XM_WIRE_MAJOR ? -EPROTONOSUPPORT : 0;
	if (status == 0)
		return 0;
	if (status != -EPROTO && status != -EPROTONOSUPPORT)
		xm_verbs_say(why, p, "the appliance refuses: %s", refusal(status));
	/* once the session is known to be over, nobody need try on */
	if (!why && xm_peer_lock_until(p, deadline_ns) == 0) {
		xm_peer_judge(p, status);
		pthread_mutex_unlock(&p->mutex);
	}
	return status;
}

static int shake_hands(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, struct xm_verbs_conn *c,
		       const struct xm_verbs_device *dev, char *why)
{
	struct xm_wire_rdma_reply reply = { 0 };
	int ret = introduce(p, link, c, dev);

	if (ret == 0)
		ret = xm_verbs_next_event(p, c, RDMA_CM_EVENT_CONNECT_RESPONSE, deadline_ns, &reply);
	if (ret == -EACCES || ret == 0)
		ret = read_answer(p, ret == 0, &reply, deadline_ns, why);
	if (ret == 0)
		ret = change_state(p, c, IBV_QPS_RTR);
	if (ret == 0 && p->uri.verbs.gid >= 0 && c->gid_index != (unsigned)p->uri.verbs.gid) {
		xm_verbs_say(why, p, "the way there is by GID %u, not by the one asked for", c->gid_index);
		ret = -EINVAL;
	}
	if (ret == 0)
		ret = change_state(p, c, IBV_QPS_RTS);
	if (ret == 0 && xm_rdma.establish(c->id) < 0)
		ret = -errno;
	return ret;
}

static void explain_limit(const struct xm_peer *p, char *why)
{
	struct rlimit l;
	char text[32];

	getrlimit(RLIMIT_MEMLOCK, &l);
	if (l.rlim_cur == RLIM_INFINITY)
		xm_verbs_say(why, p, "the device has no memory for another connection");
	else
		xm_verbs_say(why, p, "the limit of locked memory, %s, is too small: ulimit -l 65536",
			     xm_format_size(l.rlim_cur, text, sizeof(text)));
}

void xm_verbs_explain(const struct xm_peer *p, int err, char *why)
{
	if (!why || why[0])
		return;
	/* whatever came of it: that is the reason */
	if (err != -ENOMEM && xm_verbs_port_down(p, why))
		return;
	switch (-err) {
	case ENODEV:
		xm_verbs_say(why, p, "no RDMA device reaches that address (see 'rdma link'; modules ib_uverbs and rdma_ucm; "
				     "or use tcp:)");
		break;
	case ECONNREFUSED:
		xm_verbs_say(why, p, "nobody listens there for RDMA (does the appliance have --listen verbs:?)");
		break;
	case ETIMEDOUT:
		xm_verbs_say(why, p, "no answer over RDMA in time (check address and firewall: UDP port 4791)");
		break;
	case ENOMEM: explain_limit(p, why); break;
	case EHOSTUNREACH:
		if (!xm_verbs_port_down(p, why))
			xm_verbs_say(why, p, "no way there over RDMA (see 'rdma link', 'ip route get')");
		break;
	case EPROTO: xm_verbs_say(why, p, "what answers over RDMA is no xmem appliance (check the port)"); break;
	case EPROTONOSUPPORT:
		xm_verbs_say(why, p, "what answers over RDMA speaks another protocol version (update one)");
		break;
	default: xm_verbs_say(why, p, "cannot connect over RDMA: %s", xm_strerror(err));
	}
}

int xm_verbs_connect(struct xm_peer *p, uint64_t link, uint64_t deadline_ns, struct xm_verbs_conn *c,
		     struct xm_verbs_queues *q, char *why)
{
	struct xm_verbs_device *dev = NULL;
	int ret;

	if (why)
		why[0] = 0;
	xm_fd_borrow();
	c->events = xm_rdma.create_event_channel();
	if (c->events)
		place(p, &c->events->fd);
	xm_fd_return();
	if (!c->events) {
		xm_verbs_explain(p, -ENODEV, why);
		return -ENODEV;
	}
	no_wait(c->events->fd);
	ret = xm_verbs_find_way(p, deadline_ns, c, why);
	if (ret == 0)
		ret = xm_verbs_device_get(p, c->id, deadline_ns, &dev);
	if (ret == 0)
		ret = xm_verbs_queues_open(p, dev, q);
	if (ret == 0)
		ret = make_queue_pair(p, c, dev, q);
	if (ret == 0)
		ret = shake_hands(p, link, deadline_ns, c, dev, why);
	if (ret < 0) {
		xm_verbs_explain(p, ret, why);
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
