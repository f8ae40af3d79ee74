/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inject.c - the decorator of inject.h. Every operation has an entry in a fixed table:
 *
 *      FREE --submitted--> INNER --inner completion--> HELD --due--> FREE (given to poll's caller)
 *           \--error drawn--------------------------> HELD
 *
 * One thread at a time, like the link inside. Nothing is allocated after the wrap. Draws come from one
 * generator per link in order of submission, so a run with one thread repeats exactly.
 */
#include "link/inject.h"

#include "link/peer_impl.h"
#include "sys.h"
#include "units.h"

#include <string.h>

enum entry_state { FREE, INNER, HELD };

struct entry {
	enum entry_state state;
	struct xm_completion c; /* c.cookie: the caller's */
	uint8_t *dst;		/* reads that will be corrupted */
	uint64_t len;
	uint64_t delay_ns, due_ns;
};

struct inject {
	struct xm_link link;
	struct xm_link *inner;
	struct xm_inject_spec spec;
	uint64_t state; /* of the generator */
	unsigned used, held;
	struct entry entry[XM_LINK_DEPTH];
};

static struct inject *inject_of(struct xm_link *l)
{
	return xm_container_of(l, struct inject, link);
}

/* splitmix64 */
static uint64_t draw(struct inject *j)
{
	uint64_t z = (j->state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static int happens(struct inject *j, uint32_t probability)
{
	return probability && (uint32_t)(draw(j) >> 32) <= probability - 1;
}

/* ---- specification ------------------------------------------------------------------------------------ */

static int parse_probability(const char *text, uint32_t *out)
{
	uint64_t value = 0, unit = 1ull << 32;
	int digits = 0;

	for (; *text >= '0' && *text <= '9'; text++, digits++)
		value = value * 10 + (uint64_t)(*text - '0') * unit;
	if (*text == '.')
		text++;
	for (; *text >= '0' && *text <= '9'; text++, digits++) {
		unit = (unit + 9) / 10; /* rounding up: no digit that was written becomes never */
		value += (uint64_t)(*text - '0') * unit;
	}
	if (!digits || digits > 16 || *text || value > (1ull << 32) + 64)
		return -EINVAL;
	*out = (uint32_t)xm_min(value, (uint64_t)UINT32_MAX);
	return 0;
}

static int parse_delay(char *value, struct xm_inject_spec *s)
{
	char *colon = strchr(value, ':');

	if (!colon)
		return -EINVAL;
	*colon = 0;
	if (xm_parse_time(value, &s->delay_ns) < 0)
		return -EINVAL;
	return parse_probability(colon + 1, &s->delay);
}

static int parse_item(char *item, struct xm_inject_spec *s)
{
	char *value = strchr(item, '=');

	if (!value)
		return -EINVAL;
	*value++ = 0;
	if (strcmp(item, "seed") == 0)
		return xm_parse_u64(value, 0, UINT64_MAX, &s->seed);
	if (strcmp(item, "delay") == 0)
		return parse_delay(value, s);
	if (strcmp(item, "error") == 0)
		return parse_probability(value, &s->error);
	if (strcmp(item, "disconnect") == 0)
		return parse_probability(value, &s->disconnect);
	if (strcmp(item, "corrupt") == 0)
		return parse_probability(value, &s->corrupt);
	return -EINVAL;
}

int xm_inject_parse(const char *text, struct xm_inject_spec *out)
{
	struct xm_inject_spec s = { .seed = 1 };
	char copy[160], *item, *next;

	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, strlen(text) + 1);
	for (item = copy; item && *item; item = next) {
		next = strchr(item, ',');
		if (next)
			*next++ = 0;
		if (parse_item(item, &s) < 0)
			return -EINVAL;
	}
	*out = s;
	return 0;
}

/* ---- operations --------------------------------------------------------------------------------------- */

static void hold(struct inject *j, struct entry *e, uint64_t now)
{
	e->state = HELD;
	e->due_ns = e->delay_ns ? now + e->delay_ns : 0;
	j->held++;
}

/* Draws the operation's fate. 0: pass it on as *index; 1: it has completed here; -errno. */
static int begin(struct inject *j, uint64_t cookie, unsigned *index)
{
	struct entry *e = NULL;
	int ret = j->inner->ops->state(j->inner);

	if (ret < 0)
		return ret;
	if (happens(j, j->spec.disconnect)) {
		j->inner->ops->kill(j->inner);
		return -ENOLINK;
	}
	for (unsigned i = 0; i < XM_LINK_DEPTH && !e; i++) {
		if (j->entry[i].state != FREE)
			continue;
		e = &j->entry[i];
		*index = i;
	}
	if (!e)
		return -EAGAIN;
	memset(e, 0, sizeof(*e));
	e->c.cookie = cookie;
	if (happens(j, j->spec.delay))
		e->delay_ns = j->spec.delay_ns;
	j->used++;
	if (happens(j, j->spec.error)) {
		e->c.status = -EIO;
		hold(j, e, xm_now_ns());
		return 1;
	}
	e->state = INNER;
	return 0;
}

static int submitted(struct inject *j, unsigned index, int ret)
{
	if (ret < 0) {
		j->entry[index].state = FREE;
		j->used--;
	}
	return ret;
}

static int inject_read(struct xm_link *l, void *dst, size_t len, uint64_t region, uint64_t off,
		       uint64_t cookie)
{
	struct inject *j = inject_of(l);
	unsigned i;
	int ret = begin(j, cookie, &i);

	if (ret)
		return xm_min(ret, 0);
	if (happens(j, j->spec.corrupt)) {
		j->entry[i].dst = dst;
		j->entry[i].len = len;
	}
	return submitted(j, i, j->inner->ops->read(j->inner, dst, len, region, off, i));
}

static int inject_writev(struct xm_link *l, const struct iovec *iov, int n, uint64_t region, uint64_t off,
			 uint64_t cookie)
{
	struct inject *j = inject_of(l);
	unsigned i;
	int ret = begin(j, cookie, &i);

	if (ret)
		return xm_min(ret, 0);
	return submitted(j, i, j->inner->ops->writev(j->inner, iov, n, region, off, i));
}

static int inject_cas(struct xm_link *l, uint64_t region, uint64_t off, uint64_t expect, uint64_t desired,
		      uint64_t cookie)
{
	struct inject *j = inject_of(l);
	unsigned i;
	int ret = begin(j, cookie, &i);

	if (ret)
		return xm_min(ret, 0);
	return submitted(j, i, j->inner->ops->cas(j->inner, region, off, expect, desired, i));
}

static int inject_faa(struct xm_link *l, uint64_t region, uint64_t off, uint64_t add, uint64_t cookie)
{
	struct inject *j = inject_of(l);
	unsigned i;
	int ret = begin(j, cookie, &i);

	if (ret)
		return xm_min(ret, 0);
	return submitted(j, i, j->inner->ops->faa(j->inner, region, off, add, i));
}

/* Moves what the inner link has completed into the table. */
static void drain(struct inject *j)
{
	struct xm_completion c[16];
	int n;

	do {
		uint64_t now;

		n = j->inner->ops->poll(j->inner, c, XM_ARRAY_SIZE(c));
		now = n ? xm_now_ns() : 0;
		for (int i = 0; i < n; i++) {
			struct entry *e = &j->entry[c[i].cookie % XM_LINK_DEPTH];
			uint64_t cookie = e->c.cookie;

			e->c = c[i];
			e->c.cookie = cookie;
			if (e->dst && e->c.status == 0) {
				uint64_t bit = draw(j) % (e->len * 8);

				e->dst[bit / 8] ^= (uint8_t)(1u << (bit % 8));
			}
			hold(j, e, now);
		}
	} while (n == (int)XM_ARRAY_SIZE(c));
}

static int inject_poll(struct xm_link *l, struct xm_completion *c, int n)
{
	struct inject *j = inject_of(l);
	uint64_t now;
	int out = 0;

	drain(j);
	if (!j->held)
		return 0;
	now = xm_now_ns();
	for (unsigned i = 0; i < XM_LINK_DEPTH && out < n && j->held; i++) {
		struct entry *e = &j->entry[i];

		if (e->state != HELD || e->due_ns > now)
			continue;
		c[out++] = e->c;
		e->state = FREE;
		j->held--;
		j->used--;
	}
	return out;
}

/* When the earliest held completion may go; UINT64_MAX: none is held */
static uint64_t earliest(const struct inject *j)
{
	uint64_t due = UINT64_MAX;

	for (unsigned i = 0; j->held && i < XM_LINK_DEPTH; i++)
		if (j->entry[i].state == HELD)
			due = xm_min(due, j->entry[i].due_ns);
	return due;
}

static int inject_wait(struct xm_link *l, uint64_t timeout_ns)
{
	struct inject *j = inject_of(l);
	uint64_t now = xm_now_ns();
	uint64_t end = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;

	for (;;) {
		uint64_t due, until;

		drain(j);
		now = xm_now_ns();
		due = earliest(j);
		if (due <= now)
			return 0;
		if (now >= end || !j->used)
			return -ETIMEDOUT;
		until = xm_min(due, end);
		if (j->used > j->held)
			j->inner->ops->wait(j->inner, until - now);
		else
			xm_sys_sleep(until - now);
	}
}

static int inject_lend(struct xm_link *l, void *buf, size_t len)
{
	return xm_link_lend(inject_of(l)->inner, buf, len);
}

static int inject_path(struct xm_link *l, struct xm_link_path *out)
{
	return xm_link_path(inject_of(l)->inner, out);
}

static void *inject_direct(struct xm_link *l, uint64_t region, uint64_t off, size_t len, bool writing)
{
	return NULL;
}

static int inject_flush(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	return j->inner->ops->flush(j->inner);
}

static int inject_state(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	return j->inner->ops->state(j->inner);
}

static void inject_stats(struct xm_link *l, struct xm_link_stats *out)
{
	struct inject *j = inject_of(l);

	j->inner->ops->stats(j->inner, out);
}

static void inject_close(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	j->inner->ops->close(j->inner);
	xm_link_release(j, sizeof(*j));
}

static void inject_forget(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	j->inner->ops->forget(j->inner);
	xm_link_release(j, sizeof(*j));
}

static int inject_reconnect(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	return j->inner->ops->reconnect(j->inner);
}

/* Completions that were being delayed are due at once: nobody waits for them to be late any more. */
static void inject_kill(struct xm_link *l)
{
	struct inject *j = inject_of(l);

	j->inner->ops->kill(j->inner);
	drain(j);
	for (unsigned i = 0; i < XM_LINK_DEPTH; i++)
		j->entry[i].due_ns = 0;
}

static const struct xm_link_ops inject_ops = {
	.name = "inject",
	.close = inject_close,
	.direct = inject_direct,
	.lend = inject_lend,
	.path = inject_path,
	.read = inject_read,
	.writev = inject_writev,
	.cas = inject_cas,
	.faa = inject_faa,
	.flush = inject_flush,
	.poll = inject_poll,
	.wait = inject_wait,
	.state = inject_state,
	.stats = inject_stats,
	.forget = inject_forget,
	.reconnect = inject_reconnect,
	.kill = inject_kill,
};

int xm_inject_wrap(struct xm_link *inner, const char *spec, struct xm_link **out)
{
	static uint64_t wrapped; /* atomic */
	struct xm_inject_spec parsed;
	struct inject *j;

	if (xm_inject_parse(spec, &parsed) < 0)
		return -EINVAL;
	j = xm_link_alloc(sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->link.ops = &inject_ops;
	j->link.peer = inner->peer;
	j->inner = inner;
	j->spec = parsed;
	j->state = parsed.seed + xm_add(&wrapped, 1);
	*out = &j->link;
	return 0;
}
