/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_verbs.c - the verbs thread: accepts and ends RDMA connections. It never sees a request: no work is posted on
 * either queue of a connection, the device serves what the peer's keys allow.
 *
 *   request --hello checked--> queue pair in the session's domain --elders of its link gone--> accepted
 *       \--rejected, with a status                                                               |
 *   dead (no queue pair) <--access error, silence, disconnected, fenced, process or session gone-- established
 *       \--the verbs thread--> identifier destroyed, freed
 *
 * A connection is fenced by its successor as on tcp (serve_tcp.c): destroying a queue pair ends all access by it, also
 * of what is under way, and the successor is accepted afterwards.
 *
 * Connections do not hold a session, for the end of a vanished host's is never heard of: they name it by id, and the
 * session's end takes them down. This thread looks the session up when it puts a connection in the list; who ends a
 * session takes it out of the registry first and then leaves a notice. What the connections could reach is nobody's
 * before they are gone: a key dies before its slab is given back (domain.c).
 * What one process of a session left connected ends with its control connection: at once after a BYE, else when that has
 * not come back within the lease.
 *
 * Destroying a queue pair can take long; whoever serves control connections leaves notices and never waits for it.
 * Making a connection dead destroys its queue pair; only the verbs thread destroys identifiers,
 * without the mutex: that call waits until every event of the identifier was acknowledged, which this thread does. For
 * the same reason asynchronous events are acknowledged before the mutex is taken: destroying a queue pair waits for them.
 *
 * How long somebody has been silent is judged by a time before which everything was heard: while this thread waits for the
 * device, confirmations and notices lie unread.
 */
#include "appliance/serve_verbs.h"

#include "appliance/serve.h"
#include "log.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEVICES_MAX 16u
#define CONNS_MAX 4096u
#define HALF_OPEN_MAX 32u /* of one session: accepted by us, not confirmed by the peer */
#define HALF_OPEN_NS 5000000000ull
#define SWEEP_MS 250
#define BACKLOG 128
#define EVENTS 64     /* in one round, so that the sweep gets its turn */
#define NOTICES 16    /* the same; each may be about all connections of a session */
#define PORT_TRIES 16 /* of ports that are free for tcp and turn out to be taken for RDMA */
#define COMPLAINTS_PER_S 5

struct device {
	struct ibv_context *verbs;
	struct ibv_cq *cq; /* of every connection; nothing ever completes; NULL: not used yet */
	unsigned max_reads;
};

struct verbs_conn {
	struct rdma_cm_id *id;
	struct xm_domain *domain;
	uint64_t session, link;
	uint64_t control; /* link of its process's control connection; 0: not told */
	uint64_t opened_ns;
	uint64_t widowed_ns; /* since when that is gone; 0: it is not */
	bool established, dead;
	struct verbs_conn *next;
};

struct notice {
	uint64_t session, control;
	enum xm_verbs_notice what;
	struct notice *next;
};

struct request {
	struct xm_wire_rdma_hello hello;
	int status;
	uint8_t reads; /* that the peer wants to have under way */
};

struct xm_verbs {
	struct xm_appliance *a;
	struct ibv_context *
		*list; /* held, so that no device's context is closed before its domains are gone */
	struct device device[DEVICES_MAX];
	unsigned devices;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *listener[XM_LISTEN_MAX];
	unsigned listeners;
	int wake_fd;
	pthread_t thread;
	bool started;
	int stopping;		   /* atomic */
	uint64_t complaint_second; /* verbs thread, as the next */
	unsigned complaints;

	pthread_mutex_t mutex; /* conns, and every queue pair's life; taken before the registry's */
	struct verbs_conn *conns;
	unsigned count, half_open, widowed;

	pthread_mutex_t notice_mutex; /* notices, oldest first; held for moments */
	struct notice *notices;
};

/* ---- connections -------------------------------------------------------------------------------------- */

static void wake(struct xm_verbs *v)
{
	uint64_t one = 1;
	ssize_t n = write(v->wake_fd, &one, sizeof(one));

	(void)n; /* full means that it is awake */
}

/* Ends what the connection can do. Mutex held. */
static void kill_conn(struct xm_verbs *v, struct verbs_conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	rdma_destroy_qp(c->id);
	v->count--;
	v->half_open -= !c->established;
	v->widowed -= c->widowed_ns != 0;
	xm_sub(&v->a->data_connections, 1);
}

/* The rest of it, on the verbs thread. */
static void bury(struct xm_verbs *v)
{
	struct verbs_conn **at = &v->conns, *c, *dead = NULL;

	pthread_mutex_lock(&v->mutex);
	while ((c = *at)) {
		if (!c->dead) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		c->next = dead;
		dead = c;
	}
	pthread_mutex_unlock(&v->mutex);
	while ((c = dead)) {
		dead = c->next;
		rdma_destroy_id(c->id);
		xm_domain_put(c->domain);
		free(c);
	}
}

static bool is_past(uint64_t since_ns, uint64_t ns, uint64_t now_ns)
{
	return now_ns > since_ns && now_ns - since_ns >= ns;
}

static bool notices_wait(struct xm_verbs *v)
{
	bool wait;

	pthread_mutex_lock(&v->notice_mutex);
	wait = v->notices != NULL;
	pthread_mutex_unlock(&v->notice_mutex);
	return wait;
}

/* Everything that the connection manager said before this time was heard. Of notices it is asked here: a control connection
 * that is back may be among those that wait. */
static void expire(struct xm_verbs *v, uint64_t heard_ns)
{
	bool noted = !notices_wait(v);
	uint64_t lease_ns = xm_load(&v->a->lease_ns);

	pthread_mutex_lock(&v->mutex);
	for (struct verbs_conn *c = v->half_open || v->widowed ? v->conns : NULL; c; c = c->next) {
		bool silent = !c->established && is_past(c->opened_ns, HALF_OPEN_NS, heard_ns);
		bool left = noted && c->widowed_ns && is_past(c->widowed_ns, lease_ns, heard_ns);

		if (c->dead || !(silent || left))
			continue;
		xm_add(&v->a->refused, silent);
		kill_conn(v, c);
	}
	pthread_mutex_unlock(&v->mutex);
}

/* ---- notices ------------------------------------------------------------------------------------------- */

static void carry_out(struct xm_verbs *v, const struct notice *n)
{
	bool all = n->what == XM_VERBS_SESSION_OVER;

	pthread_mutex_lock(&v->mutex);
	for (struct verbs_conn *c = v->conns; c; c = c->next) {
		if (c->dead || c->session != n->session || (!all && c->control != n->control))
			continue;
		v->widowed -= c->widowed_ns != 0;
		c->widowed_ns = n->what == XM_VERBS_CONTROL_BACK ? 0 : xm_now_ns();
		v->widowed += c->widowed_ns != 0;
		if (all || n->what == XM_VERBS_CONTROL_BYE)
			kill_conn(v, c);
	}
	pthread_mutex_unlock(&v->mutex);
}

/* Who serves control connections must not wait for a device, as who holds the mutex may. */
void xm_verbs_notice(struct xm_verbs *v, enum xm_verbs_notice what, uint64_t session, uint64_t control)
{
	struct notice now = { .session = session, .control = control, .what = what }, *n, **at;

	if (!v || (!control && what != XM_VERBS_SESSION_OVER))
		return;
	n = v->started ? malloc(sizeof(*n)) : NULL;
	if (!n) {
		carry_out(v, &now);
		wake(v); /* to bury them, and to look after those that are left alone now */
		return;
	}
	*n = now;
	pthread_mutex_lock(&v->notice_mutex);
	for (at = &v->notices; *at; at = &(*at)->next)
		;
	*at = n;
	pthread_mutex_unlock(&v->notice_mutex);
	wake(v);
}

/* Carries out the oldest one; false: there is none. */
static bool take_notice(struct xm_verbs *v)
{
	struct notice *n;

	pthread_mutex_lock(&v->notice_mutex);
	n = v->notices;
	if (n)
		v->notices = n->next;
	pthread_mutex_unlock(&v->notice_mutex);
	if (!n)
		return false;
	carry_out(v, n);
	free(n);
	return true;
}

/* ---- accepting ---------------------------------------------------------------------------------------- */

static const char *explain(int status)
{
	switch (-status) {
	case EPROTO: return "a stranger does not speak this protocol";
	case EPROTONOSUPPORT: return "the client speaks another version of the protocol (update one of them)";
	case ESTALE: return "no such session (its lease is over, or the appliance was restarted)";
	case EACCES: return "the token is not this session's";
	case EUSERS: return "too many connections";
	case ENODEV: return "the session uses another RDMA device";
	default: return xm_strerror(status);
	}
}

static void refuse(struct xm_verbs *v, struct rdma_cm_id *id, int status)
{
	struct xm_wire_rdma_reply r = { XM_WIRE_MAJOR, XM_WIRE_MINOR, status };
	uint64_t second = xm_now_ns() / 1000000000ull;
	uint8_t bytes[XM_WIRE_RDMA_REPLY];

	xm_wire_put_rdma_reply(bytes, &r);
	rdma_reject(id, bytes, sizeof(bytes));
	rdma_destroy_id(id);
	xm_add(&v->a->refused, 1);
	if (second != v->complaint_second) {
		v->complaint_second = second;
		v->complaints = 0;
	}
	if (v->complaints++ < COMPLAINTS_PER_S)
		xm_warn("hello refused (verbs): %s", explain(status));
}

static struct device *find_device(struct xm_verbs *v, struct ibv_context *verbs)
{
	for (unsigned i = 0; i < v->devices; i++) {
		struct device *d = &v->device[i];

		if (d->verbs != verbs)
			continue;
		if (!d->cq)
			d->cq = ibv_create_cq(verbs, 1, NULL, NULL, 0);
		return d->cq ? d : NULL;
	}
	return NULL;
}

/* A domain for the session that has none; somebody else's, if that is put first. A reference in *out. */
static int make_domain(struct xm_verbs *v, const struct xm_wire_rdma_hello *h, struct ibv_context *verbs,
		       struct xm_domain **out)
{
	struct xm_domain *made;
	struct xm_session *s;
	int ret = xm_domain_create(verbs, &made);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&v->a->mutex);
	ret = xm_session_find(v->a, h->session, h->token, &s);
	if (ret == 0 && !s->domain) {
		s->domain = xm_domain_get(made);
		s->one_user = false; /* no user's alone any more: before it can be given a key */
	}
	if (ret == 0)
		*out = xm_domain_get(s->domain);
	pthread_mutex_unlock(&v->a->mutex);
	xm_domain_put(made);
	return ret;
}

/* A reference to the domain of the session that the hello names. */
static int find_domain(struct xm_verbs *v, const struct xm_wire_rdma_hello *h, struct ibv_context *verbs,
		       struct xm_domain **out)
{
	struct xm_domain *d = NULL;
	struct xm_session *s;
	int ret;

	pthread_mutex_lock(&v->a->mutex);
	ret = xm_session_find(v->a, h->session, h->token, &s);
	if (ret == 0)
		d = xm_domain_get(s->domain);
	pthread_mutex_unlock(&v->a->mutex);
	if (ret == 0 && !d)
		ret = make_domain(v, h, verbs, &d);
	if (ret < 0)
		return ret;
	if (xm_domain_device(d) != verbs) {
		xm_domain_put(d);
		return -ENODEV;
	}
	*out = d;
	return 0;
}

/* Is there room for one more of the session? Mutex held. */
static int check_room(const struct xm_verbs *v, const struct verbs_conn *c)
{
	unsigned all = 0, half_open = 0, replaced = 0;

	for (const struct verbs_conn *o = v->conns; o; o = o->next) {
		if (o->dead || o->session != c->session)
			continue;
		if (o->link == c->link) {
			replaced++;
			continue;
		}
		all++;
		half_open += !o->established;
	}
	return v->count - replaced >= CONNS_MAX || all >= XM_SESSION_DATA_MAX || half_open >= HALF_OPEN_MAX
		       ? -EUSERS
		       : 0;
}

/* The connection manager allows atomics together with reads; not every one did. */
static int allow_atomics(struct ibv_qp *qp)
{
	int want = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	int ret = ibv_query_qp(qp, &attr, IBV_QP_ACCESS_FLAGS, &init);

	if (ret)
		return -ret;
	if ((attr.qp_access_flags & (unsigned)want) == (unsigned)want)
		return 0;
	xm_debug("verbs: access %x of a connection, %x wanted", attr.qp_access_flags, (unsigned)want);
	attr.qp_access_flags |= (unsigned)want;
	return -ibv_modify_qp(qp, &attr, IBV_QP_ACCESS_FLAGS);
}

/* Takes down what it replaces, then accepts it and puts it in the list. Mutex held. */
static int accept_conn(struct xm_verbs *v, struct verbs_conn *c, unsigned reads)
{
	struct xm_wire_rdma_reply r = { XM_WIRE_MAJOR, XM_WIRE_MINOR, 0 };
	uint8_t bytes[XM_WIRE_RDMA_REPLY];
	struct rdma_conn_param p = { .private_data = bytes,
				     .private_data_len = sizeof(bytes),
				     .responder_resources = (uint8_t)reads,
				     .rnr_retry_count = 7 };
	int ret;

	xm_wire_put_rdma_reply(bytes, &r);
	for (struct verbs_conn *o = v->conns; o; o = o->next)
		if (o->session == c->session && o->link == c->link)
			kill_conn(v, o);
	if (rdma_accept(c->id, &p) < 0)
		return errno ? -errno : -EIO;
	c->id->context = c;
	ret = allow_atomics(c->id->qp);
	if (ret < 0)
		return ret;
	c->next = v->conns;
	v->conns = c;
	v->count++;
	v->half_open++;
	xm_add(&v->a->data_connections, 1);
	return 0;
}

/* The session is looked up once more: it may have ended since its domain was found. */
static int join_session(struct xm_verbs *v, struct verbs_conn *c, const struct request *r, unsigned reads)
{
	struct xm_domain *old = NULL;
	struct xm_session *s;
	int ret;

	pthread_mutex_lock(&v->mutex);
	pthread_mutex_lock(&v->a->mutex);
	ret = xm_session_find(v->a, r->hello.session, r->hello.token, &s);
	/* not without the mutex: after the session has gone the pool is made to forget the domain */
	if (ret == 0)
		old = xm_pool_activate(&v->a->pool, c->domain);
	pthread_mutex_unlock(&v->a->mutex);
	xm_domain_put(old);
	if (ret == 0)
		ret = check_room(v, c);
	if (ret == 0)
		ret = accept_conn(v, c, reads);
	pthread_mutex_unlock(&v->mutex);
	return ret;
}

static int admit(struct xm_verbs *v, struct rdma_cm_id *id, const struct request *r)
{
	struct ibv_qp_init_attr attr = {
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC
	};
	struct device *device = find_device(v, id->verbs);
	struct verbs_conn *c;
	int ret;

	if (!device)
		return -ENOMEM;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->id = id;
	c->session = r->hello.session;
	c->link = r->hello.link;
	c->control = r->hello.control;
	c->opened_ns = xm_now_ns();
	ret = find_domain(v, &r->hello, id->verbs, &c->domain);
	if (ret < 0)
		goto free_conn;
	attr.send_cq = attr.recv_cq = device->cq;
	if (rdma_create_qp(id, xm_domain_pd(c->domain), &attr) < 0) {
		ret = errno ? -errno : -ENOMEM;
		goto put_domain;
	}
	ret = join_session(v, c, r, xm_min(device->max_reads, (unsigned)r->reads));
	if (ret == 0)
		return 0;
	rdma_destroy_qp(id);
put_domain:
	xm_domain_put(c->domain);
free_conn:
	free(c);
	return ret;
}

/* Copies what the peer sent, before the event is acknowledged. The length is that of the manager's field, padded. */
static void read_request(const struct rdma_conn_param *p, struct request *out)
{
	memset(out, 0, sizeof(*out));
	out->reads = p->responder_resources;
	out->status = -EPROTO;
	if (p->private_data)
		out->status = xm_wire_get_rdma_hello(p->private_data, p->private_data_len, &out->hello);
	if (out->status == 0 && out->hello.major != XM_WIRE_MAJOR)
		out->status = -EPROTONOSUPPORT;
	else if (out->status == 0 && !out->hello.link)
		out->status = -EPROTO;
}

/* ---- events ------------------------------------------------------------------------------------------- */

static void on_listener(struct xm_verbs *v, enum rdma_cm_event_type type)
{
	if (type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		xm_err("verbs: the RDMA device was removed: no more connections by it (restart when it is back)");
}

static void on_conn(struct xm_verbs *v, struct verbs_conn *c, enum rdma_cm_event_type type)
{
	pthread_mutex_lock(&v->mutex);
	switch (type) {
	case RDMA_CM_EVENT_ESTABLISHED:
		if (!c->dead && !c->established)
			v->half_open--;
		c->established = true;
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
	case RDMA_CM_EVENT_DEVICE_REMOVAL: kill_conn(v, c); break;
	default: break;
	}
	pthread_mutex_unlock(&v->mutex);
}

/* 0: there was none */
static int next_event(struct xm_verbs *v)
{
	enum rdma_cm_event_type type;
	struct rdma_cm_event *ev;
	struct rdma_cm_id *id;
	struct request r;

	if (rdma_get_cm_event(v->channel, &ev) < 0)
		return 0;
	type = ev->event;
	id = ev->id;
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		read_request(&ev->param.conn, &r);
	rdma_ack_cm_event(ev);
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
		if (r.status == 0)
			r.status = admit(v, id, &r);
		if (r.status < 0)
			refuse(v, id, r.status);
	} else if (id->context) {
		on_conn(v, id->context, type);
	} else {
		on_listener(v, type);
	}
	return 1;
}

/* A peer that broke a rule (a dead key, a range) gets its queue pair into the error state; the connection ends. */
static void on_qp(struct xm_verbs *v, const struct ibv_qp *qp, enum ibv_event_type type)
{
	pthread_mutex_lock(&v->mutex);
	for (struct verbs_conn *c = v->conns; c; c = c->next) {
		if (c->dead || c->id->qp != qp)
			continue;
		if (type == IBV_EVENT_COMM_EST) /* data came before the confirmation */
			rdma_notify(c->id, type);
		else
			kill_conn(v, c);
	}
	pthread_mutex_unlock(&v->mutex);
}

static void drain_async(struct xm_verbs *v, struct device *d)
{
	struct ibv_async_event ev;

	for (int i = 0; i < EVENTS && ibv_get_async_event(d->verbs, &ev) == 0; i++) {
		enum ibv_event_type type = ev.event_type;
		const struct ibv_qp *qp = NULL;

		if (type == IBV_EVENT_QP_FATAL || type == IBV_EVENT_QP_REQ_ERR ||
		    type == IBV_EVENT_QP_ACCESS_ERR || type == IBV_EVENT_COMM_EST)
			qp = ev.element.qp;
		/* the pointer is only compared: nobody makes queue pairs but this thread, so it names no other */
		ibv_ack_async_event(&ev);
		xm_debug("verbs: %s: %s", ibv_get_device_name(d->verbs->device), ibv_event_type_str(type));
		if (type == IBV_EVENT_DEVICE_FATAL)
			xm_err("verbs: %s has failed", ibv_get_device_name(d->verbs->device));
		if (qp)
			on_qp(v, qp, type);
	}
}

/* Takes what the connection manager says. true: all that it had said before *heard_ns */
static bool hear(struct xm_verbs *v, uint64_t *heard_ns)
{
	for (int i = 0; i < EVENTS; i++) {
		*heard_ns = xm_now_ns();
		if (!next_event(v))
			return true;
	}
	return false;
}

static void *run(void *arg)
{
	struct xm_verbs *v = arg;
	struct pollfd fds[2 + DEVICES_MAX] = { { .fd = v->wake_fd, .events = POLLIN },
					       { .fd = v->channel->fd, .events = POLLIN } };
	uint64_t count;

	for (unsigned i = 0; i < v->devices; i++)
		fds[2 + i] = (struct pollfd){ .fd = v->device[i].verbs->async_fd, .events = POLLIN };
	while (!xm_load(&v->stopping)) {
		uint64_t heard_ns;
		bool waits;
		ssize_t n;

		pthread_mutex_lock(&v->mutex);
		waits = v->half_open || v->widowed;
		pthread_mutex_unlock(&v->mutex);
		poll(fds, 2 + v->devices, waits ? SWEEP_MS : -1);
		n = read(v->wake_fd, &count, sizeof(count));
		(void)n;
		for (unsigned i = 0; i < v->devices; i++) {
			if (fds[2 + i].revents & POLLIN)
				drain_async(v, &v->device[i]);
			if (fds[2 + i].revents & (POLLERR | POLLHUP | POLLNVAL))
				fds[2 + i].fd = -1; /* gone: or this would spin */
		}
		if (hear(v, &heard_ns))
			expire(v, heard_ns);
		for (int i = 0; i < NOTICES && take_notice(v); i++)
			;
		if (notices_wait(v))
			wake(v);
		bury(v);
	}
	return NULL;
}

/* ---- start and end ------------------------------------------------------------------------------------ */

static int no_device(const char *uri, char *why)
{
	xm_snprintf(
		why, XM_WHY_MAX,
		"--listen %.48s: no RDMA device serves this address (see 'rdma link'; modules ib_uverbs, rdma_ucm)",
		uri);
	return -ENODEV;
}

static int set_nonblocking(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 ? -errno : 0;
}

static int open_devices(struct xm_verbs *v)
{
	int n = 0;

	v->list = rdma_get_devices(&n);
	if (!v->list || n <= 0)
		return -ENODEV;
	for (int i = 0; i < n && v->devices < DEVICES_MAX; i++) {
		struct device *d = &v->device[v->devices];
		struct ibv_device_attr attr;

		if (ibv_query_device(v->list[i], &attr) || set_nonblocking(v->list[i]->async_fd) < 0)
			continue;
		d->verbs = v->list[i];
		d->max_reads = (unsigned)xm_max(attr.max_qp_rd_atom, 1);
		v->devices++;
	}
	return v->devices ? 0 : -ENODEV;
}

int xm_verbs_create(struct xm_appliance *a, struct xm_verbs **out)
{
	struct xm_verbs *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return -ENOMEM;
	v->a = a;
	pthread_mutex_init(&v->mutex, NULL);
	pthread_mutex_init(&v->notice_mutex, NULL);
	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = v->wake_fd < 0 ? -errno : open_devices(v);
	if (ret == 0) {
		v->channel = rdma_create_event_channel();
		ret = v->channel ? set_nonblocking(v->channel->fd) : -ENODEV;
	}
	if (ret < 0) {
		xm_verbs_destroy(v);
		return ret;
	}
	*out = v;
	return 0;
}

/* A listener at the address, or with backlog 0 only the question whether a device has it. *out: NULL then. */
static int bind_rdma(struct xm_verbs *v, const struct sockaddr_storage *ss, int backlog,
		     struct rdma_cm_id **out)
{
	struct rdma_cm_id *id;
	int ret = 0;

	if (rdma_create_id(v->channel, &id, NULL, RDMA_PS_TCP) < 0)
		return errno ? -errno : -ENODEV;
	if (rdma_bind_addr(id, (struct sockaddr *)ss) < 0 || (backlog && rdma_listen(id, backlog) < 0))
		ret = errno ? -errno : -ENODEV;
	if (ret < 0 || !backlog)
		rdma_destroy_id(id);
	else
		*out = id;
	return ret;
}

int xm_verbs_listen(struct xm_verbs *v, const char *uri, struct xm_listener *out, char *why)
{
	struct sockaddr_storage ss;
	struct xm_listener l;
	struct xm_uri u;
	socklen_t len;
	int ret = xm_uri_parse_listen(uri, &u, why);
	bool any_port = ret == 0 && strcmp(u.port, "0") == 0;

	if (ret == 0)
		ret = xm_uri_resolve(&u, &ss, &len, why);
	if (ret < 0)
		return ret;
	((struct sockaddr_in *)&ss)->sin_port = 0; /* at the same place for IPv6 */
	if (!v || bind_rdma(v, &ss, 0, NULL) < 0)
		return no_device(uri, why);
	for (int i = 0; i < PORT_TRIES; i++) {
		ret = xm_listen(uri, &l, why);
		if (ret < 0)
			return ret;
		len = sizeof(ss);
		getsockname(l.fd, (struct sockaddr *)&ss, &len);
		ret = bind_rdma(v, &ss, BACKLOG, &v->listener[v->listeners]);
		if (ret == 0) {
			v->listeners++;
			*out = l;
			return 0;
		}
		xm_unlisten(&l);
		if (ret != -EADDRINUSE || !any_port)
			break;
	}
	xm_snprintf(why, XM_WHY_MAX, "--listen %.80s: RDMA connections: %s", uri, xm_strerror(ret));
	return ret;
}

int xm_verbs_start(struct xm_verbs *v)
{
	int ret = pthread_create(&v->thread, NULL, run, v);

	v->started = ret == 0;
	return -ret;
}

void xm_verbs_stop(struct xm_verbs *v)
{
	if (!v)
		return;
	if (v->started) {
		xm_store(&v->stopping, 1);
		wake(v);
		pthread_join(v->thread, NULL);
		v->started = false;
	}
	while (v->listeners)
		rdma_destroy_id(v->listener[--v->listeners]);
	pthread_mutex_lock(&v->mutex);
	for (struct verbs_conn *c = v->conns; c; c = c->next)
		kill_conn(v, c);
	pthread_mutex_unlock(&v->mutex);
	while (take_notice(v))
		;
	bury(v);
}

void xm_verbs_destroy(struct xm_verbs *v)
{
	if (!v)
		return;
	for (unsigned i = 0; i < v->devices; i++)
		if (v->device[i].cq)
			ibv_destroy_cq(v->device[i].cq);
	if (v->channel)
		rdma_destroy_event_channel(v->channel);
	if (v->list)
		rdma_free_devices(v->list);
	if (v->wake_fd >= 0)
		close(v->wake_fd);
	pthread_mutex_destroy(&v->mutex);
	pthread_mutex_destroy(&v->notice_mutex);
	free(v);
}
