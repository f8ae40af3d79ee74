/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - sessions, the registry's set-up, and what STAT reports.
 *
 *     connected --last connection gone--> orphaned --end--> (regions freed)
 *         ^------- attach (id + token) ------/
 *
 * An orphaned session ends at once after a BYE, or when only unix sockets were used (the kernel closes
 * those when the last holder is gone), or when every process that has not said BYE is known to be dead; else
 * when the lease is over.
 * Inherited copies of a connection keep it open, so a fork child that has yet to introduce itself holds the
 * session. enter and reap run on the control thread; leave also on the tcp thread.
 */
#include "appliance/appliance.h"

#include "appliance/grant.h"
#include "appliance/serve_verbs.h"

#include "log.h"
#include "util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define REAP_NS 50000000ull /* between looks at whether the processes of an orphan are dead */

static int random_bytes(void *p, size_t n)
{
	return getrandom(p, n, 0) == (ssize_t)n ? 0 : -EIO;
}

int xm_appliance_init(struct xm_appliance *a, const char *name, uint64_t lease_ns)
{
	int ret = random_bytes(a->boot, sizeof(a->boot));

	if (ret < 0)
		return ret;
	xm_snprintf(a->name, sizeof(a->name), "%s", name);
	xm_procid_self(&a->self);
	a->started_ns = xm_now_ns();
	a->lease_ns = lease_ns;
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake_fd < 0)
		return -errno;
	pthread_mutex_init(&a->mutex, NULL);
	return 0;
}

static void wake(struct xm_appliance *a)
{
	uint64_t one = 1;
	ssize_t n = write(a->wake_fd, &one, sizeof(one));

	(void)n; /* full means that it is awake */
}

static struct xm_session *find(struct xm_appliance *a, uint64_t id)
{
	struct xm_session *s = a->sessions;

	while (s && s->id != id)
		s = s->next;
	return s;
}

static struct xm_session *make(struct xm_appliance *a, const struct xm_wire_hello *h,
			       const struct xm_hello_context *c)
{
	struct xm_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	do {
		if (random_bytes(&s->id, sizeof(s->id)) < 0 || random_bytes(s->token, sizeof(s->token)) < 0) {
			free(s);
			return NULL;
		}
	} while (!s->id || find(a, s->id));
	s->index = ++a->sessions_ever;
	memcpy(s->name, h->name, sizeof(s->name));
	s->uid = c->uid;
	s->leaseless = true;
	s->one_user = c->local;
	s->next = a->sessions;
	a->sessions = s;
	a->session_count++;
	return s;
}

static struct xm_member *find_process(struct xm_session *s, const struct xm_procid *id)
{
	for (unsigned i = 0; i < s->procs; i++) {
		const struct xm_procid *have = &s->proc[i].id;

		if (have->pid == id->pid && have->start_time == id->start_time &&
		    have->boot_hash == id->boot_hash && have->pidns == id->pidns)
			return &s->proc[i];
	}
	return NULL;
}

static void note_process(struct xm_session *s, const struct xm_wire_hello *h)
{
	struct xm_member *m = find_process(s, &h->proc);

	if (!m && (!h->proc.pid || s->procs == XM_SESSION_PROCS_MAX)) {
		s->procs_unknown = true;
		return;
	}
	if (!m) {
		m = &s->proc[s->procs++];
		m->id = h->proc;
		m->controls = 0;
	}
	m->controls += h->role == XM_WIRE_ROLE_CONTROL;
}

/* A process that said bye on its last control connection is none of the session's any more; one whose
 * connection broke still is, for it may come back. */
static void forget_process(struct xm_session *s, const struct xm_procid *id, bool bye)
{
	struct xm_member *m = find_process(s, id);

	if (!m || (m->controls && --m->controls) || !bye)
		return;
	*m = s->proc[--s->procs];
}

/* Finds or makes the session; mutex held. */
static int choose(struct xm_appliance *a, const struct xm_wire_hello *h, const struct xm_hello_context *c,
		  struct xm_session **out, char text[XM_WIRE_TEXT])
{
	struct xm_session *s;

	if (h->session) {
		s = find(a, h->session);
		if (!s) {
			xm_snprintf(text, XM_WIRE_TEXT,
				    "no such session (its lease is over, or the appliance was restarted)");
			return -ESTALE;
		}
		if (!xm_access_token(s, h->token)) {
			xm_snprintf(text, XM_WIRE_TEXT, "the token is not this session's");
			return -EACCES;
		}
		*out = s;
		return 0;
	}
	if (h->role != XM_WIRE_ROLE_CONTROL) {
		xm_snprintf(text, XM_WIRE_TEXT, "a data connection needs a session");
		return -ESTALE;
	}
	if (xm_access_new_session(c) < 0) {
		xm_snprintf(text, XM_WIRE_TEXT,
			    "user %u may not use this appliance (it serves user %u and root)",
			    (unsigned)c->uid, (unsigned)geteuid());
		return -EACCES;
	}
	if (a->session_count >= XM_SESSIONS_MAX) {
		xm_snprintf(text, XM_WIRE_TEXT, "the appliance has its %u sessions, try later",
			    XM_SESSIONS_MAX);
		return -EUSERS;
	}
	s = make(a, h, c);
	if (!s) {
		xm_snprintf(text, XM_WIRE_TEXT, "the appliance is out of memory for itself");
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

int xm_session_enter(struct xm_appliance *a, const struct xm_wire_hello *h, const struct xm_hello_context *c,
		     struct xm_session **out, char text[XM_WIRE_TEXT])
{
	struct xm_session *s;
	int ret;

	pthread_mutex_lock(&a->mutex);
	ret = choose(a, h, c, &s, text);
	if (ret == 0 && h->role == XM_WIRE_ROLE_DATA && s->data_count >= XM_SESSION_DATA_MAX)
		ret = -EUSERS;
	if (ret == 0) {
		s->connections++;
		s->data_count += h->role == XM_WIRE_ROLE_DATA;
		s->orphaned_ns = 0;
		s->leaseless = s->leaseless && c->local;
		s->one_user = s->one_user && c->local && c->uid == s->uid;
		note_process(s, h);
		*out = s;
	} else if (ret == -EUSERS && !text[0]) {
		xm_snprintf(text, XM_WIRE_TEXT, "the session has its %u data connections",
			    XM_SESSION_DATA_MAX);
	}
	pthread_mutex_unlock(&a->mutex);
	return ret;
}

void xm_session_leave(struct xm_appliance *a, struct xm_session *s, const struct xm_procid *control, bool bye)
{
	bool last;

	pthread_mutex_lock(&a->mutex);
	if (control) {
		s->bye = bye;
		forget_process(s, control, bye);
	} else {
		s->data_count--;
	}
	last = --s->connections == 0;
	if (last)
		s->orphaned_ns = xm_now_ns();
	pthread_mutex_unlock(&a->mutex);
	if (last)
		wake(a);
}

struct xm_domain *xm_session_domain(struct xm_appliance *a, struct xm_session *s)
{
	struct xm_domain *d;

	pthread_mutex_lock(&a->mutex);
	d = xm_domain_get(s->domain);
	pthread_mutex_unlock(&a->mutex);
	return d;
}

int xm_session_find(struct xm_appliance *a, uint64_t id, const uint8_t token[16], struct xm_session **out)
{
	struct xm_session *s = find(a, id);

	if (!s)
		return -ESTALE;
	if (!xm_access_token(s, token))
		return -EACCES;
	*out = s;
	return 0;
}

static bool all_dead(const struct xm_appliance *a, const struct xm_session *s)
{
	if (s->procs_unknown)
		return false;
	for (unsigned i = 0; i < s->procs; i++)
		if (xm_procid_check(&a->self, &s->proc[i].id) != XM_PROC_DEAD)
			return false;
	return true;
}

static bool is_over(const struct xm_appliance *a, struct xm_session *s, uint64_t now)
{
	if (s->connections || s->working)
		return false;
	/* who is unknown cannot be known dead: then the last one's BYE has to do */
	if (s->leaseless || (s->bye && s->procs_unknown))
		return true;
	if (now - s->orphaned_ns >= xm_load(&a->lease_ns))
		return true;
	/* this reads files, with the registry locked: not for every message that somebody else sends */
	if (now - s->looked_ns < REAP_NS)
		return false;
	s->looked_ns = now;
	return all_dead(a, s);
}

/* Nobody finds the session any more, so no verbs connection can be added to it. Those it has end soon; the keys by which
 * they reach memory end with the slabs. */
static void dispose(struct xm_appliance *a, struct xm_session *s, struct xm_region *regions,
		    struct xm_grant *grants)
{
	xm_pool_revoke(&a->pool, grants);
	xm_verbs_notice(a->verbs, XM_VERBS_SESSION_OVER, s->id, 0);
	xm_lend_dispose(a, regions);
	if (s->domain)
		xm_pool_forget(&a->pool, s->domain);
	xm_domain_put(s->domain);
	free(s);
}

static void end(struct xm_appliance *a, struct xm_session *s)
{
	unsigned count = s->region_count; /* nobody changes it any more; detaching forgets it */
	struct xm_region *regions;
	struct xm_grant *grants;

	pthread_mutex_lock(&a->mutex);
	regions = xm_lend_detach_all(a, s);
	grants = xm_grant_detach_session(s);
	pthread_mutex_unlock(&a->mutex);
	xm_info("session %llu (%s) ended: %u region%s, %llu slab%s freed", (unsigned long long)s->index,
		s->name[0] ? s->name : "unnamed", count, count == 1 ? "" : "s", (unsigned long long)s->slabs,
		s->slabs == 1 ? "" : "s");
	dispose(a, s, regions, grants);
}

uint64_t xm_session_reap(struct xm_appliance *a)
{
	uint64_t now, due = UINT64_MAX;
	struct xm_session **at, *s, *over = NULL;

	pthread_mutex_lock(&a->mutex);
	now = xm_now_ns(); /* here: a session may have been orphaned while the mutex was waited for */
	for (at = &a->sessions; (s = *at);) {
		if (!is_over(a, s, now)) {
			if (!s->connections)
				due = xm_min(due, now + REAP_NS);
			at = &s->next;
			continue;
		}
		*at = s->next;
		a->session_count--;
		s->next = over;
		over = s;
	}
	pthread_mutex_unlock(&a->mutex);
	while ((s = over)) {
		over = s->next;
		end(a, s);
	}
	return due;
}

void xm_appliance_fini(struct xm_appliance *a)
{
	struct xm_session *s;

	while ((s = a->sessions)) {
		struct xm_region *regions = xm_lend_detach_all(a, s);

		a->sessions = s->next;
		dispose(a, s, regions, xm_grant_detach_session(s));
	}
	if (a->wake_fd >= 0)
		close(a->wake_fd);
	a->wake_fd = -1;
	pthread_mutex_destroy(&a->mutex);
}

static void describe(const struct xm_session *s, struct xm_wire_session *out)
{
	memset(out, 0, sizeof(*out));
	out->index = s->index;
	out->pid = s->procs ? s->proc[0].id.pid : 0;
	out->regions = s->region_count;
	out->connections = s->connections;
	out->orphaned = !s->connections;
	out->slabs = s->slabs;
	out->read_bytes = xm_load_relaxed(&s->read_bytes);
	out->write_bytes = xm_load_relaxed(&s->write_bytes);
	memcpy(out->name, s->name, sizeof(out->name));
}

/* New sessions are put in front, so the list runs from high index to low: the page that follows `after`
 * is the end of the run of larger ones. */
static void list_sessions(struct xm_appliance *a, uint64_t after, struct xm_wire_stat_reply *out)
{
	unsigned larger = 0, skip;

	for (struct xm_session *s = a->sessions; s && s->index > after; s = s->next)
		larger++;
	skip = larger > XM_WIRE_SESSIONS ? larger - XM_WIRE_SESSIONS : 0;
	out->more = skip > 0;
	out->count = larger - skip;
	larger = 0;
	for (struct xm_session *s = a->sessions; s && s->index > after; s = s->next, larger++)
		if (larger >= skip)
			describe(s, &out->session[out->count - 1 - (larger - skip)]);
}

void xm_appliance_stat(struct xm_appliance *a, const struct xm_wire_stat *want,
		       struct xm_wire_stat_reply *out)
{
	struct xm_pool_stat pool;

	memset(out, 0, sizeof(*out));
	xm_pool_stat(&a->pool, &pool);
	out->total_bytes = pool.total_bytes;
	out->free_bytes = pool.free_bytes;
	out->warm_bytes = pool.warm_bytes;
	out->slab_bytes = a->pool.kind.bytes;
	out->slabs_used = pool.promised_slabs;
	out->slabs_backed = pool.backed_slabs;
	out->data_connections = xm_load_relaxed(&a->data_connections);
	out->connections = xm_load_relaxed(&a->connections) + out->data_connections;
	out->reads = xm_load_relaxed(&a->reads);
	out->writes = xm_load_relaxed(&a->writes);
	out->atomics = xm_load_relaxed(&a->atomics);
	out->refused = xm_load_relaxed(&a->refused);
	out->read_bytes = xm_load_relaxed(&a->read_bytes);
	out->write_bytes = xm_load_relaxed(&a->write_bytes);
	out->uptime_ns = xm_now_ns() - a->started_ns;
	pthread_mutex_lock(&a->mutex);
	out->sessions = a->session_count;
	out->regions = a->region_count;
	if (want->want_sessions)
		list_sessions(a, want->after, out);
	pthread_mutex_unlock(&a->mutex);
}
