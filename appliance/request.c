/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - control messages of sessions: one function each, chosen by type from a table; every failure
 * becomes a refusal with one line of text. Any thread; holds no lock of its own.
 */
#include "appliance/request.h"

#include "appliance/grant.h"
#include "log.h"
#include "units.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Registering a slab takes milliseconds, and the session's other requests wait: a client asks again for the rest. */
#define KEYS_NS 20000000ull

void xm_request_refuse(struct xm_wire_msg *out, int status, const char *text, uint64_t value)
{
	struct xm_wire_error *e = &out->u.error;

	memset(e, 0, sizeof(*e));
	out->h.status = status;
	e->major = XM_WIRE_MAJOR;
	e->minor = XM_WIRE_MINOR;
	e->value = value;
	xm_snprintf(e->text, sizeof(e->text), "%s", text);
}

static void refuse(struct xm_request *r, int status)
{
	char text[XM_WIRE_TEXT], free_text[24], total_text[24];
	struct xm_pool_stat pool;

	if (r->text) {
		xm_request_refuse(r->out, status, r->text, 0);
		return;
	}
	switch (-status) {
	case ENOMEM:
		xm_pool_stat(&r->a->pool, &pool);
		xm_snprintf(text, sizeof(text),
			    "no room: %s of %s are free (give the appliance more --memory)",
			    xm_format_size(pool.free_bytes, free_text, sizeof(free_text)),
			    xm_format_size(pool.total_bytes, total_text, sizeof(total_text)));
		xm_request_refuse(r->out, status, text, pool.free_bytes);
		break;
	case ENOENT: xm_request_refuse(r->out, status, "no such region", 0); break;
	case EACCES: xm_request_refuse(r->out, status, "the region belongs to another session, and no rule of it permits this", 0); break;
	case ENXIO: xm_request_refuse(r->out, status, "no such slab: beyond the end, or freed", 0); break;
	case EEXIST: xm_request_refuse(r->out, status, "the session has a region of that name", 0); break;
	case EUSERS: xm_request_refuse(r->out, status, "the session has its 256 regions", 0); break;
	case ENOSYS: xm_request_refuse(r->out, status, "this version does not know that message", 0); break;
	default: xm_request_refuse(r->out, status, xm_strerror(status), 0);
	}
}

static int do_ping(struct xm_request *r)
{
	return 0;
}

static int do_bye(struct xm_request *r)
{
	r->bye = true;
	return 0;
}

static int do_create(struct xm_request *r)
{
	const struct xm_wire_region_create *req = &r->in->u.create;
	int ret = xm_lend_create(r->a, r->session, req, &r->out->u.region);

	if (ret == -EEXIST && req->type == XM_WIRE_REGION_SHARED)
		r->text = "there is a region of that name: of the session, or shared by another";
	return ret;
}

/* A client of 1.2 does not know that there are regions which it may only read. */
static int do_open(struct xm_request *r)
{
	return xm_lend_open(r->a, r->session, r->in->u.op.name, r->minor >= 3, &r->out->u.region);
}

static int do_resize(struct xm_request *r)
{
	return xm_lend_resize(r->a, r->session, r->in->u.op.region, r->in->u.op.value, &r->gone, &r->out->u.region);
}

static int do_drop(struct xm_request *r)
{
	return xm_lend_drop(r->a, r->session, &r->in->u.slabs, &r->gone, &r->out->u.region);
}

static int do_free(struct xm_request *r)
{
	return xm_lend_free(r->a, r->session, r->in->u.op.region, &r->gone);
}

static int let_go(struct xm_request *r)
{
	xm_lend_let_go(r->a, &r->gone);
	return 0;
}

static int do_info(struct xm_request *r)
{
	return xm_lend_info(r->a, r->session, r->in->u.op.region, &r->out->u.region);
}

static int do_list(struct xm_request *r)
{
	xm_lend_list(r->a, r->session, r->in->u.op.region, &r->out->u.list);
	return 0;
}

/* A descriptor by which a slab can be mapped for reading only, whoever asks for more. Whoever has one already can hold
 * others' opens up for long, by a lease: that is not waited for. -EMFILE, -ENOMEM: that passes; -EIO */
static int open_to_read(const struct xm_slab *s)
{
	char path[40];
	int fd;

	xm_snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	switch (errno) {
	case EAGAIN:
	case EMFILE:
	case ENFILE: return -EMFILE;
	case ENOMEM: return -ENOMEM;
	default: return -EIO;
	}
}

/* What is sent of the slabs that r has. Their number, less where descriptors run out; -errno: not even the first. */
static int choose_fds(struct xm_request *r, bool write)
{
	r->fds_made = !write;
	for (unsigned i = 0; i < r->slabs; i++) {
		int fd = write ? r->slab[i]->fd : open_to_read(r->slab[i]);

		if (fd < 0 && i == 0)
			return fd;
		if (fd < 0)
			return (int)i;
		r->fd[i] = fd;
	}
	return (int)r->slabs;
}

static void put_slabs(struct xm_request *r, unsigned keep)
{
	while (r->slabs > keep)
		xm_slab_put(&r->a->pool, r->slab[--r->slabs], false);
}

void xm_request_done(struct xm_request *r)
{
	for (unsigned i = 0; r->fds_made && i < r->slabs; i++)
		close(r->fd[i]);
	put_slabs(r, 0);
}

/* As xm_lend_get_slabs(). A client of 1.2 is told of a region that is gone as it always was. */
static int get_slabs(struct xm_request *r, struct xm_slab **out, unsigned max, uint32_t *rights)
{
	int n = xm_lend_get_slabs(r->a, r->session, &r->in->u.slabs, out, max, rights);

	return n == -ENOENT && r->minor < 3 ? -ENXIO : n;
}

static int do_slab_map(struct xm_request *r)
{
	const struct xm_wire_slabs *in = &r->in->u.slabs;
	uint32_t rights;
	int n;

	if (!r->peer.local)
		return -EOPNOTSUPP; /* memory objects cannot be handed over a network */
	n = get_slabs(r, r->slab, XM_WIRE_FDS, &rights);
	if (n < 0)
		return n;
	r->slabs = (unsigned)n;
	n = xm_access_map(&r->peer, rights);
	if (n == 0)
		n = choose_fds(r, rights & XM_WIRE_RIGHT_WRITE);
	put_slabs(r, (unsigned)xm_max(n, 0));
	if (n < 0)
		return n;
	r->out->u.mapped = (struct xm_wire_mapped){ .region = in->region,
						    .first = in->first,
						    .count = (uint64_t)n,
						    .rights = rights & (XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE) };
	return 0;
}

static void describe_key(const struct xm_slab *s, struct xm_wire_key *out)
{
	out->addr = (uint64_t)(uintptr_t)s->addr;
	out->rkey = s->rkey;
	out->rights = XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE;
}

/* Registers what is not yet, within bounds: the first slab, and those behind it while that keeps nobody waiting for
 * long. How many have keys; -errno: not even the first. */
static int make_keys(struct xm_domain *domain, struct xm_slab **slab, int n, struct xm_wire_key *out)
{
	uint64_t end_ns = xm_now_ns() + KEYS_NS;
	int ret = 0, done = 0;

	while (done < n && (!done || slab[done]->domain || xm_now_ns() < end_ns)) {
		ret = xm_domain_register(domain, slab[done]);
		if (ret < 0)
			break;
		describe_key(slab[done], &out[done]);
		done++;
	}
	return done ? done : ret;
}

/* The same for a guest. */
static int make_grants(struct xm_request *r, struct xm_domain *domain, struct xm_slab **slab, int n,
		       struct xm_wire_key *out)
{
	const struct xm_wire_slabs *in = &r->in->u.slabs;
	uint64_t end_ns = xm_now_ns() + KEYS_NS;
	int ret = 0, done = 0;

	while (done < n && (!done || xm_now_ns() < end_ns)) {
		struct xm_grant_want w = { .session = r->session,
					   .domain = domain,
					   .slab = slab[done],
					   .region = in->region,
					   .index = in->first + (uint64_t)done };

		ret = xm_grant_get(r->a, &w, &out[done]);
		if (ret < 0)
			break;
		done++;
	}
	return done ? done : ret;
}

static int do_slab_keys(struct xm_request *r)
{
	struct xm_domain *domain = xm_session_domain(r->a, r->session);
	struct xm_wire_keys *out = &r->out->u.keys;
	struct xm_slab *slab[XM_WIRE_KEYS];
	uint32_t rights = 0;
	int ret, n;

	if (!domain) {
		r->text = "no verbs connection yet: connect first, then ask for keys";
		return -EAGAIN;
	}
	n = get_slabs(r, slab, XM_WIRE_KEYS, &rights);
	ret = n;
	if (n > 0) {
		out->region = r->in->u.slabs.region;
		out->first = r->in->u.slabs.first;
		ret = rights & XM_WIRE_RIGHT_MANAGE ? make_keys(domain, slab, n, out->key)
						    : make_grants(r, domain, slab, n, out->key);
		if (ret > 0)
			out->count = (uint32_t)ret;
		else if (ret == -EUSERS)
			r->text = "others have too many keys: 64 to this slab, or as many in all as --memory has slabs";
		else if (ret != -ENXIO)
			r->text = "the appliance cannot register memory with its device (see its log, and ulimit -l "
				  "there)";
	}
	while (n > 0)
		xm_slab_put(&r->a->pool, slab[--n], false);
	xm_domain_put(domain);
	return xm_min(ret, 0);
}

static int do_stat(struct xm_request *r)
{
	xm_appliance_stat(r->a, &r->in->u.stat, &r->out->u.stat_reply);
	return 0;
}

static const struct handler {
	uint16_t type;
	const char *name;
	int (*fn)(struct xm_request *r);   /* NULL: the rest is all there is */
	int (*rest)(struct xm_request *r); /* NULL: there is none */
} handlers[] = {
	{ XM_WIRE_PING, "PING", do_ping, NULL },
	{ XM_WIRE_BYE, "BYE", do_bye, NULL },
	{ XM_WIRE_REGION_CREATE, "REGION_CREATE", do_create, NULL },
	{ XM_WIRE_REGION_OPEN, "REGION_OPEN", do_open, NULL },
	{ XM_WIRE_REGION_RESIZE, "REGION_RESIZE", do_resize, let_go },
	{ XM_WIRE_REGION_DROP, "REGION_DROP", do_drop, let_go },
	{ XM_WIRE_REGION_FREE, "REGION_FREE", do_free, let_go },
	{ XM_WIRE_REGION_INFO, "REGION_INFO", do_info, NULL },
	{ XM_WIRE_REGION_LIST, "REGION_LIST", do_list, NULL },
	{ XM_WIRE_SLAB_MAP, "SLAB_MAP", NULL, do_slab_map },
	{ XM_WIRE_SLAB_KEYS, "SLAB_KEYS", NULL, do_slab_keys },
	{ XM_WIRE_STAT, "STAT", do_stat, NULL },
};

/* NULL: no such request */
static const struct handler *handler_of(uint16_t type)
{
	for (size_t i = 0; i < XM_ARRAY_SIZE(handlers); i++)
		if (handlers[i].type == type)
			return &handlers[i];
	return NULL;
}

bool xm_request_is_long(uint16_t type)
{
	const struct handler *h = handler_of(type);

	return h && h->rest;
}

const char *xm_request_name(uint16_t type)
{
	const struct handler *h = handler_of(type);

	return h ? h->name : "an unknown request";
}

static void conclude(struct xm_request *r, int ret)
{
	if (ret >= 0)
		return;
	xm_add(&r->a->refused, 1);
	refuse(r, ret);
}

bool xm_request_answer(struct xm_request *r)
{
	const struct handler *h = handler_of(r->in->h.type);
	int ret = -ENOSYS;

	r->slabs = 0;
	r->fds_made = false;
	r->gone = (struct xm_gone){ 0 };
	r->bye = false;
	r->text = NULL;
	memset(&r->out->h, 0, sizeof(r->out->h));
	r->out->h.type = r->in->h.type;
	r->out->h.flags = XM_WIRE_REPLY;
	r->out->h.seq = r->in->h.seq;
	if (h && !h->fn)
		return false;
	if (h)
		ret = h->fn(r);
	if (r->gone.list)
		return false;
	xm_lend_let_go(r->a, &r->gone); /* of promises without a slab: at once */
	conclude(r, ret);
	return true;
}

void xm_request_rest(struct xm_request *r)
{
	conclude(r, handler_of(r->in->h.type)->rest(r));
}
