/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c - the codec. One cursor goes over the bytes in either direction, and each message is described
 * once, as a function that passes its fields to the cursor in wire order:
 *
 *     encode: field -> bytes        decode: bytes -> field        both: bounds first, a sticky error
 *
 * After an error the cursor neither reads nor writes anything more, so descriptions need no checks of their
 * own except for counts, which are checked against the array's size before the loop that uses them.
 * Pure; any thread; no allocation.
 */
#include "wire.h"

#include "util.h"

#include <errno.h>
#include <string.h>

struct cursor {
	uint8_t *p, *end;
	int decoding;
	int error;
};

static uint8_t *take(struct cursor *c, size_t n)
{
	uint8_t *p = c->p;

	if (c->error)
		return NULL;
	if ((size_t)(c->end - p) < n) {
		c->error = c->decoding ? -EPROTO : -EMSGSIZE;
		return NULL;
	}
	c->p += n;
	return p;
}

static void put_le(uint8_t *p, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static uint64_t x_int(struct cursor *c, uint64_t v, unsigned n)
{
	uint8_t *p = take(c, n);

	if (!p)
		return v;
	if (c->decoding)
		return get_le(p, n);
	put_le(p, v, n);
	return v;
}

static void x_u8(struct cursor *c, uint8_t *v)
{
	*v = (uint8_t)x_int(c, *v, 1);
}

static void x_u16(struct cursor *c, uint16_t *v)
{
	*v = (uint16_t)x_int(c, *v, 2);
}

static void x_u32(struct cursor *c, uint32_t *v)
{
	*v = (uint32_t)x_int(c, *v, 4);
}

static void x_u64(struct cursor *c, uint64_t *v)
{
	*v = x_int(c, *v, 8);
}

static void x_bytes(struct cursor *c, void *v, size_t n)
{
	uint8_t *p = take(c, n);

	if (!p)
		return;
	if (c->decoding)
		memcpy(v, p, n);
	else
		memcpy(p, v, n);
}

/* Fixed width, padded with NUL. A decoded one always ends with NUL and has no bytes after it. */
static void x_text(struct cursor *c, char *v, size_t n)
{
	if (!c->decoding && !c->error) {
		size_t len = strnlen(v, n - 1);

		memset(v + len, 0, n - len);
	}
	x_bytes(c, v, n);
	if (c->decoding && !c->error) {
		size_t len = strnlen(v, n - 1);

		memset(v + len, 0, n - len);
	}
}

static void x_count(struct cursor *c, uint32_t *v, uint32_t limit)
{
	x_u32(c, v);
	if (*v > limit && !c->error)
		c->error = -EPROTO;
}

/* A field at a message's end that a later minor version added: is it there? It is sent always, since older receivers
 * skip it; half of it is malformed. */
static int x_follows(const struct cursor *c)
{
	return !c->decoding || c->error || c->p != c->end;
}

static void x_rules(struct cursor *c, struct xm_wire_rule rules[XM_WIRE_RULES])
{
	for (int i = 0; i < XM_WIRE_RULES; i++) {
		x_u8(c, &rules[i].kind);
		x_bytes(c, rules[i].principal, sizeof(rules[i].principal));
		x_u32(c, &rules[i].rights);
	}
}

static void x_procid(struct cursor *c, struct xm_procid *id)
{
	x_u32(c, &id->pid);
	x_u64(c, &id->start_time);
	x_u64(c, &id->boot_hash);
	x_u64(c, &id->pidns);
}

static void x_error(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_error *e = &m->u.error;

	x_u16(c, &e->major);
	x_u16(c, &e->minor);
	x_u64(c, &e->value);
	x_text(c, e->text, sizeof(e->text));
}

static void x_hello(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_hello *h = &m->u.hello;

	x_u32(c, &h->magic);
	x_u16(c, &h->major);
	x_u16(c, &h->minor);
	if (c->decoding && !c->error && (h->magic != XM_WIRE_MAGIC || h->major != XM_WIRE_MAJOR)) {
		/* only these eight bytes mean the same in every version: the receiver answers from them */
		c->p = c->end;
		return;
	}
	x_u16(c, &h->role);
	x_u32(c, &h->features);
	x_u64(c, &h->session);
	x_bytes(c, h->token, sizeof(h->token));
	x_procid(c, &h->proc);
	x_text(c, h->name, sizeof(h->name));
	if (h->minor >= 1)
		x_u64(c, &h->link);
	else if (c->decoding)
		h->link = 0;
}

static void x_hello_reply(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_hello_reply *h = &m->u.hello_reply;

	x_u16(c, &h->major);
	x_u16(c, &h->minor);
	x_u32(c, &h->features);
	x_u64(c, &h->session);
	x_bytes(c, h->token, sizeof(h->token));
	x_bytes(c, h->boot, sizeof(h->boot));
	x_u64(c, &h->slab_bytes);
	x_u32(c, &h->page_bytes);
	x_u64(c, &h->lease_ns);
	x_u64(c, &h->total_bytes);
	x_u64(c, &h->free_bytes);
	x_procid(c, &h->proc);
	x_text(c, h->name, sizeof(h->name));
}

static void x_create(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_region_create *r = &m->u.create;

	x_u64(c, &r->size_bytes);
	x_u32(c, &r->type);
	x_u32(c, &r->flags);
	x_u64(c, &r->nonce);
	x_text(c, r->name, sizeof(r->name));
	if (x_follows(c))
		x_rules(c, r->rules);
	else
		memset(r->rules, 0, sizeof(r->rules));
}

static void x_region_op(struct cursor *c, struct xm_wire_msg *m)
{
	x_u64(c, &m->u.op.region);
	x_u64(c, &m->u.op.value);
	x_text(c, m->u.op.name, sizeof(m->u.op.name));
}

static void x_slabs(struct cursor *c, struct xm_wire_msg *m)
{
	x_u64(c, &m->u.slabs.region);
	x_u64(c, &m->u.slabs.first);
	x_u64(c, &m->u.slabs.count);
}

static void x_mapped(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_mapped *s = &m->u.mapped;

	x_u64(c, &s->region);
	x_u64(c, &s->first);
	x_u64(c, &s->count);
	if (x_follows(c))
		x_u32(c, &s->rights);
	else
		s->rights = XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE;
}

static void x_keys(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_keys *k = &m->u.keys;

	x_u64(c, &k->region);
	x_u64(c, &k->first);
	x_count(c, &k->count, XM_WIRE_KEYS);
	for (uint32_t i = 0; !c->error && i < k->count; i++) {
		x_u64(c, &k->key[i].addr);
		x_u32(c, &k->key[i].rkey);
		x_u32(c, &k->key[i].rights);
	}
}

static void x_region_body(struct cursor *c, struct xm_wire_region *r)
{
	x_u64(c, &r->id);
	x_u64(c, &r->size_bytes);
	x_u64(c, &r->slabs);
	x_u64(c, &r->slabs_present);
	x_u32(c, &r->generation);
	x_u32(c, &r->type);
	x_u32(c, &r->flags);
	x_u64(c, &r->owner_session);
	x_bytes(c, r->owner, sizeof(r->owner));
	x_u64(c, &r->created_ns);
	x_u64(c, &r->modified_ns);
	x_u32(c, &r->alloc_format);
	x_u64(c, &r->alloc_offset);
	x_rules(c, r->rules);
	x_text(c, r->name, sizeof(r->name));
	if (c->decoding)
		r->rights = XM_WIRE_RIGHTS_OWN;
}

static void x_region(struct cursor *c, struct xm_wire_msg *m)
{
	x_region_body(c, &m->u.region);
	if (x_follows(c))
		x_u32(c, &m->u.region.rights);
}

static void x_list(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_region_list *l = &m->u.list;

	x_count(c, &l->count, XM_WIRE_LIST);
	x_u32(c, &l->more);
	for (uint32_t i = 0; !c->error && i < l->count; i++)
		x_region_body(c, &l->region[i]);
}

static void x_stat(struct cursor *c, struct xm_wire_msg *m)
{
	x_u32(c, &m->u.stat.want_sessions);
	x_u64(c, &m->u.stat.after);
}

static void x_session(struct cursor *c, struct xm_wire_session *s)
{
	x_u64(c, &s->index);
	x_u32(c, &s->pid);
	x_u32(c, &s->regions);
	x_u32(c, &s->connections);
	x_u32(c, &s->orphaned);
	x_u64(c, &s->slabs);
	x_u64(c, &s->read_bytes);
	x_u64(c, &s->write_bytes);
	x_text(c, s->name, sizeof(s->name));
}

static void x_stat_reply(struct cursor *c, struct xm_wire_msg *m)
{
	struct xm_wire_stat_reply *s = &m->u.stat_reply;
	uint64_t *total[] = {
		&s->total_bytes, &s->free_bytes, &s->warm_bytes,   &s->slab_bytes,  &s->sessions,
		&s->regions,	 &s->slabs_used, &s->slabs_backed, &s->connections, &s->data_connections,
		&s->reads,	 &s->writes,	 &s->atomics,	   &s->refused,	    &s->read_bytes,
		&s->write_bytes, &s->uptime_ns,
	};

	for (size_t i = 0; i < XM_ARRAY_SIZE(total); i++)
		x_u64(c, total[i]);
	x_count(c, &s->count, XM_WIRE_SESSIONS);
	x_u32(c, &s->more);
	for (uint32_t i = 0; !c->error && i < s->count; i++)
		x_session(c, &s->session[i]);
}

static void x_empty(struct cursor *c, struct xm_wire_msg *m)
{
}

typedef void describe_fn(struct cursor *c, struct xm_wire_msg *m); /* function type, not a struct */

static const struct {
	uint16_t type;
	describe_fn *request, *reply;
} messages[] = {
	{ XM_WIRE_HELLO, x_hello, x_hello_reply },
	{ XM_WIRE_PING, x_empty, x_empty },
	{ XM_WIRE_BYE, x_empty, x_empty },
	{ XM_WIRE_REGION_CREATE, x_create, x_region },
	{ XM_WIRE_REGION_OPEN, x_region_op, x_region },
	{ XM_WIRE_REGION_RESIZE, x_region_op, x_region },
	{ XM_WIRE_REGION_DROP, x_slabs, x_region },
	{ XM_WIRE_REGION_FREE, x_region_op, x_empty },
	{ XM_WIRE_REGION_INFO, x_region_op, x_region },
	{ XM_WIRE_REGION_LIST, x_region_op, x_list },
	{ XM_WIRE_SLAB_MAP, x_slabs, x_mapped },
	{ XM_WIRE_SLAB_KEYS, x_slabs, x_keys },
	{ XM_WIRE_STAT, x_stat, x_stat_reply },
	{ XM_WIRE_ERROR, x_error, x_error },
};

static describe_fn *description(const struct xm_wire_header *h)
{
	int reply = h->flags & XM_WIRE_REPLY;

	if (reply && h->status < 0)
		return x_error;
	for (size_t i = 0; i < XM_ARRAY_SIZE(messages); i++)
		if (messages[i].type == h->type)
			return reply ? messages[i].reply : messages[i].request;
	return NULL;
}

static void x_header(struct cursor *c, struct xm_wire_header *h)
{
	uint32_t status = (uint32_t)h->status;

	x_u32(c, &h->length);
	x_u16(c, &h->type);
	x_u16(c, &h->flags);
	x_u32(c, &h->seq);
	x_u32(c, &status);
	h->status = (int32_t)status;
}

int xm_wire_decode_header(const void *bytes, size_t len, struct xm_wire_header *out)
{
	struct cursor c = { .p = (uint8_t *)bytes, .end = (uint8_t *)bytes + len, .decoding = 1 };
	struct xm_wire_header h = { 0 };

	if (len < XM_WIRE_HEADER)
		return -EAGAIN;
	x_header(&c, &h);
	if (h.length < XM_WIRE_HEADER || h.length > XM_WIRE_MAX)
		return -EPROTO;
	*out = h;
	return 0;
}

int xm_wire_decode(const void *bytes, size_t len, struct xm_wire_msg *out)
{
	struct cursor c = { .p = (uint8_t *)bytes + XM_WIRE_HEADER,
			    .end = (uint8_t *)bytes + len,
			    .decoding = 1 };
	describe_fn *describe;
	int ret = xm_wire_decode_header(bytes, len, &out->h);

	if (ret < 0)
		return -EPROTO;
	if (out->h.length != len)
		return -EPROTO;
	describe = description(&out->h);
	if (!describe)
		return -ENOSYS;
	describe(&c, out);
	return c.error;
}

int xm_wire_encode(struct xm_wire_msg *m, void *bytes, size_t size)
{
	size_t room = xm_min(size, (size_t)XM_WIRE_MAX);
	struct cursor c = { .p = bytes, .end = (uint8_t *)bytes + room };
	describe_fn *describe = description(&m->h);

	if (!describe)
		return -EPROTO;
	x_header(&c, &m->h);
	describe(&c, m);
	if (c.error)
		return c.error;
	m->h.length = (uint32_t)(c.p - (uint8_t *)bytes);
	put_le(bytes, m->h.length, 4);
	return (int)m->h.length;
}

void xm_wire_put_request(uint8_t b[XM_WIRE_REQUEST], const struct xm_wire_request *r)
{
	b[0] = r->op;
	b[1] = r->flags;
	put_le(b + 2, 0, 2);
	put_le(b + 4, r->len, 4);
	put_le(b + 8, r->region, 8);
	put_le(b + 16, r->offset, 8);
	put_le(b + 24, r->cookie, 8);
}

void xm_wire_get_request(const uint8_t b[XM_WIRE_REQUEST], struct xm_wire_request *out)
{
	out->op = b[0];
	out->flags = b[1];
	out->len = (uint32_t)get_le(b + 4, 4);
	out->region = get_le(b + 8, 8);
	out->offset = get_le(b + 16, 8);
	out->cookie = get_le(b + 24, 8);
}

void xm_wire_put_response(uint8_t b[XM_WIRE_RESPONSE], const struct xm_wire_response *r)
{
	put_le(b, (uint32_t)r->status, 4);
	put_le(b + 4, r->len, 4);
	put_le(b + 8, r->cookie, 8);
	put_le(b + 16, r->value, 8);
}

void xm_wire_get_response(const uint8_t b[XM_WIRE_RESPONSE], struct xm_wire_response *out)
{
	out->status = (int32_t)get_le(b, 4);
	out->len = (uint32_t)get_le(b + 4, 4);
	out->cookie = get_le(b + 8, 8);
	out->value = get_le(b + 16, 8);
}

static void x_rdma_head(struct cursor *c, uint16_t *major, uint16_t *minor)
{
	uint32_t magic = XM_WIRE_MAGIC;

	x_u32(c, &magic);
	if (magic != XM_WIRE_MAGIC && !c->error)
		c->error = -EPROTO;
	x_u16(c, major);
	x_u16(c, minor);
}

static void x_rdma_hello(struct cursor *c, struct xm_wire_rdma_hello *h)
{
	x_rdma_head(c, &h->major, &h->minor);
	if (c->decoding && h->major != XM_WIRE_MAJOR)
		return;
	x_u64(c, &h->session);
	x_bytes(c, h->token, sizeof(h->token));
	x_u64(c, &h->link);
	x_u64(c, &h->control);
}

static void x_rdma_reply(struct cursor *c, struct xm_wire_rdma_reply *r)
{
	uint32_t status = (uint32_t)r->status, reserved = 0;

	x_rdma_head(c, &r->major, &r->minor);
	x_u32(c, &status);
	x_u32(c, &reserved);
	r->status = (int32_t)status;
}

void xm_wire_put_rdma_hello(uint8_t b[XM_WIRE_RDMA_HELLO], const struct xm_wire_rdma_hello *h)
{
	struct cursor c = { .p = b, .end = b + XM_WIRE_RDMA_HELLO };
	struct xm_wire_rdma_hello copy = *h;

	x_rdma_hello(&c, &copy);
}

int xm_wire_get_rdma_hello(const void *bytes, size_t len, struct xm_wire_rdma_hello *out)
{
	struct cursor c = { .p = (uint8_t *)bytes, .end = (uint8_t *)bytes + len, .decoding = 1 };

	memset(out, 0, sizeof(*out));
	x_rdma_hello(&c, out);
	return c.error;
}

void xm_wire_put_rdma_reply(uint8_t b[XM_WIRE_RDMA_REPLY], const struct xm_wire_rdma_reply *r)
{
	struct cursor c = { .p = b, .end = b + XM_WIRE_RDMA_REPLY };
	struct xm_wire_rdma_reply copy = *r;

	x_rdma_reply(&c, &copy);
}

int xm_wire_get_rdma_reply(const void *bytes, size_t len, struct xm_wire_rdma_reply *out)
{
	struct cursor c = { .p = (uint8_t *)bytes, .end = (uint8_t *)bytes + len, .decoding = 1 };

	memset(out, 0, sizeof(*out));
	x_rdma_reply(&c, out);
	return c.error ? c.error : out->status > 0 ? -EPROTO : 0;
}

void xm_wire_put_u64(uint8_t b[8], uint64_t v)
{
	put_le(b, v, 8);
}

uint64_t xm_wire_get_u64(const uint8_t b[8])
{
	return get_le(b, 8);
}
