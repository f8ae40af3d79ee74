/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer.c - the public calls of a peer: a session with one appliance.
 * Any thread; each call holds the peer's one mutex, blocks at most connect_timeout (in a child of fork: until the
 * lost timeout), and allocates nothing (the peer is one mapping made at open). What travels is in peer_conn.c, slab mappings in peer_slabs.c.
 */
#include "link/peer_impl.h"
#include "link/rdma_lib.h"
#include "link/rdma_sysfs.h"

#include "log.h"
#include "sys.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define DEFAULT_TIMEOUT_NS 5000000000ull
#define BYE_TIMEOUT_NS 1000000000ull
#define RETRY_NS_MAX 200000000ull

static int copy_text(char *to, size_t size, const char *from, const char *what, char *why)
{
	if (!from)
		return 0;
	if (strlen(from) >= size) {
		if (why)
			xm_snprintf(why, XM_WHY_MAX, "%s is longer than %zu bytes", what, size - 1);
		return -EINVAL;
	}
	memcpy(to, from, strlen(from) + 1);
	return 0;
}

static int configure(struct xm_peer *p, const struct xm_peer_config *cfg, char *why)
{
	char name[32] = "client";
	int ret = xm_uri_parse(cfg->uri, &p->uri, why);

	if (ret == 0)
		ret = copy_text(p->uri_text, sizeof(p->uri_text), cfg->uri, "the address", why);
	if (ret == 0)
		ret = copy_text(p->inject_spec, sizeof(p->inject_spec), cfg->inject, "inject", why);
	if (ret == 0 && p->uri.kind == XM_URI_VERBS)
		ret = xm_rdma_load(why);
	if (ret == 0)
		ret = xm_uri_resolve(&p->uri, &p->addr, &p->addr_len, why);
	if (ret < 0)
		return ret;
	if (cfg->client_name && cfg->client_name[0])
		xm_snprintf(name, sizeof(name), "%s", cfg->client_name);
	memcpy(p->client_name, name, sizeof(name));
	p->place_fd = cfg->place_fd;
	p->connect_timeout_ns = cfg->connect_timeout_ns ? cfg->connect_timeout_ns : DEFAULT_TIMEOUT_NS;
	p->lost_timeout_ns = cfg->lost_timeout_ns;
	p->backoff_ns = 1000000;
	return 0;
}

static void adopt_hello(struct xm_peer *p)
{
	const struct xm_wire_hello_reply *r = &p->rep.u.hello_reply;
	struct xm_peer_info *info = &p->info;

	info->session.id = r->session;
	memcpy(info->session.token, r->token, sizeof(info->session.token));
	memcpy(info->session.boot, r->boot, sizeof(info->session.boot));
	info->protocol_major = r->major;
	info->protocol_minor = r->minor;
	info->slab_bytes = r->slab_bytes;
	info->total_bytes = r->total_bytes;
	info->free_bytes = r->free_bytes;
	info->lease_ns = r->lease_ns;
	memcpy(info->appliance_name, r->name, sizeof(info->appliance_name));
	p->appliance = r->proc;
	p->slab_shift = (unsigned)__builtin_ctzll(r->slab_bytes);
	if (!p->lost_timeout_ns)
		p->lost_timeout_ns = r->lease_ns ? r->lease_ns : DEFAULT_TIMEOUT_NS;
}

uint64_t xm_peer_random(struct xm_peer *p)
{
	uint64_t v = 0;

	if (getrandom(&v, sizeof(v), GRND_NONBLOCK) != (ssize_t)sizeof(v))
		v = xm_now_ns() ^ (uint64_t)xm_load(&p->pid) << 40;
	return v ? v : 1;
}

/* What a process does not share with the one that it was forked from: with the parent's nonces a child would be
 * answered with the parent's regions, with its link id the parent's connection would be taken down. */
static void set_process(struct xm_peer *p)
{
	xm_procid_self(&p->self);
	xm_store(&p->pid, xm_sys_getpid());
	p->nonce = xm_peer_random(p);
	p->link = xm_peer_random(p);
}

int xm_peer_open(const struct xm_peer_config *cfg, struct xm_peer **out, char *why)
{
	struct xm_peer *p = xm_link_alloc(sizeof(*p));
	static const uint8_t no_boot[16];
	char down[XM_WHY_MAX];
	int ret;

	if (!p) {
		if (why)
			xm_snprintf(why, XM_WHY_MAX, "no memory for a connection");
		return -ENOMEM;
	}
	p->fd = -1;
	ret = configure(p, cfg, why);
	if (ret < 0)
		goto release;
	set_process(p);
	ret = xm_peer_connect(p, &cfg->session, xm_now_ns() + p->connect_timeout_ns, &p->fd, why);
	if (ret < 0) {
		/* tcp goes by the same interface: say what mends it */
		if (p->uri.kind == XM_URI_VERBS && why && xm_verbs_port_down(p, down))
			memcpy(why, down, sizeof(down));
		goto release;
	}
	if (cfg->session.id && memcmp(cfg->session.boot, no_boot, sizeof(no_boot)) != 0 &&
	    memcmp(cfg->session.boot, p->rep.u.hello_reply.boot, sizeof(no_boot)) != 0) {
		if (why)
			xm_snprintf(why, XM_WHY_MAX, "%.70s: the appliance was restarted meanwhile",
				    p->uri_text);
		ret = -ESTALE;
		goto close_fd;
	}
	adopt_hello(p);
	pthread_mutex_init(&p->mutex, NULL);
	xm_store(&p->conn, XM_PEER_UP);
	*out = p;
	return 0;
close_fd:
	xm_sys_close(p->fd);
release:
	xm_link_release(p, sizeof(*p));
	return ret;
}

void xm_peer_close(struct xm_peer *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->mutex);
	if (p->fd >= 0) {
		/* the answer says that the appliance knows: it then need not wait for the lease */
		p->connect_timeout_ns = xm_min(p->connect_timeout_ns, BYE_TIMEOUT_NS);
		xm_peer_request(p, XM_WIRE_BYE);
		xm_peer_call(p, NULL);
	}
	if (p->fd >= 0)
		xm_sys_close(p->fd);
	xm_peer_slabs_fini(p);
	xm_verbs_device_close(p);
	pthread_mutex_unlock(&p->mutex);
	pthread_mutex_destroy(&p->mutex);
	xm_link_release(p, sizeof(*p));
}

int xm_peer_check(struct xm_peer *p, unsigned links, size_t lent_bytes, struct xm_link_path *path, char *why)
{
	size_t must, may = links * lent_bytes;
	struct xm_link *l;
	void *scratch;
	int ret;

	*path = (struct xm_link_path){ .node = -1 };
	if (p->uri.kind != XM_URI_VERBS)
		return 0;
	ret = xm_verbs_link_open(p, &l, why);
	if (ret < 0)
		return ret;
	xm_link_path(l, path);
	must = (links - 1) * path->pinned_bytes + XM_PAGE_SIZE;
	scratch = xm_link_alloc(must + may);
	if (!scratch || xm_link_lend(l, scratch, must) != 1)
		ret = -ENOMEM;
	else if (xm_link_lend(l, (char *)scratch + must, may) != 1)
		ret = 1;
	if (ret)
		xm_verbs_explain(p, -ENOMEM, why);
	l->ops->close(l);
	xm_link_release(scratch, must + may);
	pthread_mutex_lock(&p->mutex);
	xm_verbs_device_close(p);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_peer_staging(struct xm_peer *p, struct xm_peer_staging *out)
{
	const struct xm_uri_options *o = &p->uri.verbs;

	*out = (struct xm_peer_staging){ .pinned = p->uri.kind == XM_URI_VERBS, .node = -1 };
	if (!out->pinned)
		return;
	out->huge = o->huge != 0;
	out->node = o->numa >= 0 || !o->device[0] ? o->numa : xm_rdma_node(o->device);
}

/* Whether another attempt may end otherwise: the network, or an appliance that has no processor just now. */
static bool may_pass(int err)
{
	switch (-err) {
	case EAGAIN:
	case ECONNABORTED:
	case ECONNRESET:
	case EHOSTUNREACH:
	case ENETDOWN:
	case ENETUNREACH:
	case ENOBUFS:
	case ENOMEM:
	case EPIPE:
	case ETIMEDOUT:
		return true;
	default:
		return false;
	}
}

/* A child without a connection cannot live, so it is as patient as its parent would be. */
static int connect_child(struct xm_peer *p, char *why)
{
	uint64_t end_ns = xm_now_ns() + p->lost_timeout_ns;
	int ret;

	for (p->backoff_ns = 1000000;; p->backoff_ns = xm_min(p->backoff_ns * 2, RETRY_NS_MAX)) {
		ret = xm_peer_connect(p, &p->info.session, xm_now_ns() + p->connect_timeout_ns, &p->fd, why);
		if (ret == 0 || !may_pass(ret) || xm_now_ns() + p->backoff_ns >= end_ns ||
		    xm_procid_check(&p->self, &p->appliance) == XM_PROC_DEAD)
			return ret;
		xm_sys_sleep(p->backoff_ns);
	}
}

int xm_peer_after_fork(struct xm_peer *p, char *why)
{
	int inherited = p->fd;
	int ret;

	pthread_mutex_init(&p->mutex, NULL); /* whoever held it does not exist here */
	xm_verbs_device_forget(p);
	set_process(p);
	if (xm_load(&p->conn) == XM_PEER_LOST) {
		if (why)
			xm_snprintf(why, XM_WHY_MAX, "%.70s: the appliance is lost", p->uri_text);
		return -ENOLINK;
	}
	p->fd = -1;
	ret = connect_child(p, why);
	/* only now: as long as the inherited copy is open the session cannot end, even if the parent dies */
	if (inherited >= 0)
		xm_sys_close(inherited);
	if (ret < 0) {
		xm_store(&p->conn, XM_PEER_UP);
		xm_peer_down(p);
		xm_peer_judge(p, ret);
		return ret;
	}
	p->down_since_ns = 0;
	xm_store(&p->conn, XM_PEER_UP);
	return 0;
}

void xm_peer_info(struct xm_peer *p, struct xm_peer_info *out)
{
	pthread_mutex_lock(&p->mutex);
	*out = p->info;
	pthread_mutex_unlock(&p->mutex);
}

int xm_peer_state(struct xm_peer *p)
{
	return xm_load(&p->conn) == XM_PEER_LOST ? -ENOLINK : 0;
}

/* Between calls nothing may arrive: what does is the end of the stream or an error message. */
static void tick_up(struct xm_peer *p)
{
	ssize_t n = xm_sys_recv(p->fd, p->bytes, sizeof(p->bytes), MSG_DONTWAIT);

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n > 0 && xm_wire_decode(p->bytes, (size_t)n, &p->rep) == 0 && p->rep.h.type == XM_WIRE_ERROR)
		xm_warn("%s: the appliance ended the connection: %s", p->uri_text, p->rep.u.error.text);
	xm_peer_down(p);
}

static void tick_down(struct xm_peer *p)
{
	uint64_t now = xm_now_ns();

	if (now < p->retry_at_ns)
		return;
	if (xm_peer_reattach(p, now + p->connect_timeout_ns) == 0) {
		xm_info("%s: connection is back", p->uri_text);
		return;
	}
	p->backoff_ns = xm_min(p->backoff_ns * 2, RETRY_NS_MAX);
	p->retry_at_ns = xm_now_ns() + p->backoff_ns;
}

void xm_peer_tick(struct xm_peer *p)
{
	if (pthread_mutex_trylock(&p->mutex) != 0)
		return; /* a call is under way and sees for itself */
	if (xm_load(&p->conn) == XM_PEER_UP)
		tick_up(p);
	if (xm_load(&p->conn) == XM_PEER_DOWN)
		tick_down(p);
	pthread_mutex_unlock(&p->mutex);
}

static void region_out(const struct xm_wire_region *r, struct xm_region_info *out)
{
	if (!out)
		return;
	memset(out, 0, sizeof(*out));
	out->id = r->id;
	out->size_bytes = r->size_bytes;
	out->slabs = r->slabs;
	out->slabs_present = r->slabs_present;
	out->generation = r->generation;
	out->flags = r->flags;
	out->type = r->type;
	out->rights = r->rights;
	memcpy(out->name, r->name, sizeof(out->name));
}

/* Begins a request for a region; the mutex is held from here on. */
static struct xm_wire_region_create *begin_create(struct xm_peer *p, uint64_t size_bytes, const char *name)
{
	struct xm_wire_region_create *r = &p->req.u.create;

	pthread_mutex_lock(&p->mutex);
	xm_peer_request(p, XM_WIRE_REGION_CREATE);
	r->size_bytes = size_bytes;
	r->nonce = ++p->nonce ? p->nonce : ++p->nonce;
	if (name)
		memcpy(r->name, name, strlen(name) + 1);
	return r;
}

/* Makes it, and leaves the mutex. */
static int end_create(struct xm_peer *p, struct xm_region_info *out)
{
	int ret = xm_peer_call(p, NULL);

	if (ret == 0)
		region_out(&p->rep.u.region, out);
	else if (ret == -ENOMEM)
		p->info.free_bytes = p->rep.u.error.value;
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

int xm_peer_region_create(struct xm_peer *p, uint64_t size_bytes, const char *name, uint32_t flags,
			  struct xm_region_info *out)
{
	struct xm_wire_region_create *r;

	if (name && strlen(name) >= XM_WIRE_NAME)
		return -EINVAL;
	r = begin_create(p, size_bytes, name);
	r->type = XM_WIRE_REGION_PRIVATE;
	r->flags = flags;
	return end_create(p, out);
}

int xm_peer_region_create_shared(struct xm_peer *p, uint64_t size_bytes, const char *name,
				 const struct xm_region_rule *rules, unsigned n, struct xm_region_info *out)
{
	struct xm_wire_region_create *r;

	_Static_assert(XM_REGION_RULES_MAX == XM_WIRE_RULES, "as many as travel");
	_Static_assert(XM_RIGHT_READ == XM_WIRE_RIGHT_READ && XM_RIGHT_WRITE == XM_WIRE_RIGHT_WRITE &&
			       XM_RIGHT_MANAGE == XM_WIRE_RIGHT_MANAGE,
		       "the same rights");
	if (!name || !name[0] || strlen(name) >= XM_WIRE_NAME || !n || n > XM_WIRE_RULES)
		return -EINVAL;
	if (p->info.protocol_minor < 3)
		return -EOPNOTSUPP;
	r = begin_create(p, size_bytes, name);
	r->type = XM_WIRE_REGION_SHARED;
	for (unsigned i = 0; i < n; i++) {
		uint32_t uid = rules[i].who == XM_RULE_USER ? rules[i].uid : 0;

		r->rules[i].kind = (uint8_t)rules[i].who;
		r->rules[i].rights = rules[i].rights;
		for (unsigned k = 0; k < sizeof(uid); k++)
			r->rules[i].principal[k] = (uint8_t)(uid >> (8 * k));
	}
	return end_create(p, out);
}

int xm_peer_region_open(struct xm_peer *p, const char *name, struct xm_region_info *out)
{
	int ret;

	if (!name || !name[0] || strlen(name) >= XM_WIRE_NAME)
		return -EINVAL;
	pthread_mutex_lock(&p->mutex);
	xm_peer_request(p, XM_WIRE_REGION_OPEN);
	memcpy(p->req.u.op.name, name, strlen(name) + 1);
	ret = xm_peer_call(p, NULL);
	if (ret == 0)
		region_out(&p->rep.u.region, out);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

/* resize, free and info differ in the type and in what becomes of the reply */
static int region_call(struct xm_peer *p, enum xm_wire_type type, uint64_t region, uint64_t value)
{
	xm_peer_request(p, type);
	p->req.u.op.region = region;
	p->req.u.op.value = value;
	return xm_peer_call(p, NULL);
}

int xm_peer_region_resize(struct xm_peer *p, uint64_t region, uint64_t size_bytes, struct xm_region_info *out)
{
	int ret;

	pthread_mutex_lock(&p->mutex);
	ret = region_call(p, XM_WIRE_REGION_RESIZE, region, size_bytes);
	if (ret == 0) {
		xm_peer_slabs_drop(p, region, p->rep.u.region.slabs, UINT64_MAX);
		region_out(&p->rep.u.region, out);
	} else if (ret == -ENOMEM) {
		p->info.free_bytes = p->rep.u.error.value;
	}
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

int xm_peer_region_drop_slabs(struct xm_peer *p, uint64_t region, uint64_t first, uint64_t count)
{
	int ret;

	pthread_mutex_lock(&p->mutex);
	xm_peer_request(p, XM_WIRE_REGION_DROP);
	p->req.u.slabs.region = region;
	p->req.u.slabs.first = first;
	p->req.u.slabs.count = count;
	ret = xm_peer_call(p, NULL);
	if (ret == 0)
		xm_peer_slabs_drop(p, region, first, count);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

int xm_peer_region_free(struct xm_peer *p, uint64_t region)
{
	int ret;

	pthread_mutex_lock(&p->mutex);
	ret = region_call(p, XM_WIRE_REGION_FREE, region, 0);
	if (ret == 0 || ret == -ENOENT)
		xm_peer_region_gone(p, region);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

int xm_peer_region_info(struct xm_peer *p, uint64_t region, struct xm_region_info *out)
{
	int ret;

	pthread_mutex_lock(&p->mutex);
	ret = region_call(p, XM_WIRE_REGION_INFO, region, 0);
	if (ret == 0)
		region_out(&p->rep.u.region, out);
	else if (ret == -ENOENT)
		xm_peer_region_left(p, region);
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

void xm_peer_region_close(struct xm_peer *p, uint64_t region)
{
	pthread_mutex_lock(&p->mutex);
	xm_peer_region_gone(p, region);
	pthread_mutex_unlock(&p->mutex);
}

int xm_peer_appliance_stat(struct xm_peer *p, struct xm_appliance_stat *out)
{
	const struct xm_wire_stat_reply *s = &p->rep.u.stat_reply;
	int ret;

	pthread_mutex_lock(&p->mutex);
	xm_peer_request(p, XM_WIRE_STAT);
	ret = xm_peer_call(p, NULL);
	if (ret == 0) {
		*out = (struct xm_appliance_stat){
			.total_bytes = s->total_bytes,
			.free_bytes = s->free_bytes,
			.warm_bytes = s->warm_bytes,
			.slab_bytes = s->slab_bytes,
			.sessions = s->sessions,
			.regions = s->regions,
			.slabs_used = s->slabs_used,
			.slabs_backed = s->slabs_backed,
			.connections = s->connections,
			.data_connections = s->data_connections,
			.reads = s->reads,
			.writes = s->writes,
			.atomics = s->atomics,
			.refused = s->refused,
			.read_bytes = s->read_bytes,
			.write_bytes = s->write_bytes,
			.uptime_ns = s->uptime_ns,
		};
		p->info.free_bytes = s->free_bytes;
		p->info.total_bytes = s->total_bytes;
	}
	pthread_mutex_unlock(&p->mutex);
	return ret;
}

uint64_t xm_peer_control_messages(struct xm_peer *p)
{
	return xm_load(&p->messages);
}
