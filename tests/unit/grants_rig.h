/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grants_rig.h - an appliance without a device or sockets, for tests of guests' keys (grant.h): registering and deregistering
 * them takes as long as the test likes, and slabs are counted (tests/module.mk). The test's own thread is the control thread;
 * what a request leaves to a worker is done by a thread of the rig's. Checked after every test: no call of the device was made
 * under the registry's mutex, no slab destroyed while a key to it lived, and nothing is left behind. A header of
 * test_appliance_grants.c alone, for it defines what the linker wraps.
 */
#ifndef XM_GRANTS_RIG_H
#define XM_GRANTS_RIG_H

#include "tests/unit/appliance_rig.h"
#define SLAB_WRAPS_GRANTS
#include "tests/unit/slab_wraps.h"

#include "appliance/grant.h"
#include "appliance/request.h"

#include <pthread.h>

#define SLABS 128u
#define SIZE 4u /* slabs of the owner's region */
#define KEYS_MAX 100000u

static struct xm_appliance a;
static uint8_t names[4096]; /* domains */
static unsigned names_used;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* what follows */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool shut_grant, shut_revoke; /* calls wait */
static bool refuse;		     /* the device has no room */
static unsigned inside;		     /* calls that wait */
static unsigned granted, revoked, revoked_by_pool, revoked_by_control;
static unsigned under_mutex, destroyed_with_keys;
static const struct xm_slab *live[KEYS_MAX]; /* by rkey; NULL: dead */
static uint64_t made, destroyed;
static pthread_t control;
static __thread bool holds_registry;
static __thread unsigned jitter; /* calls take a random while; 0: they do not */

int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

static unsigned locked(const unsigned *what)
{
	unsigned n;

	pthread_mutex_lock(&mutex);
	n = *what;
	pthread_mutex_unlock(&mutex);
	return n;
}

static void set(bool *what, bool to)
{
	pthread_mutex_lock(&mutex);
	*what = to;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mutex);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	int ret = __real_pthread_mutex_lock(m);

	holds_registry = holds_registry || m == &a.mutex;
	return ret;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	holds_registry = holds_registry && m != &a.mutex;
	return __real_pthread_mutex_unlock(m);
}

/* Mutex held, but not meanwhile. */
static void device(const bool *shut)
{
	under_mutex += holds_registry;
	inside++;
	pthread_cond_broadcast(&changed);
	while (*shut)
		pthread_cond_wait(&changed, &mutex);
	inside--;
	if (jitter) {
		pthread_mutex_unlock(&mutex);
		jitter = jitter * 1103515245 + 12345;
		usleep(jitter >> 16 & 255);
		pthread_mutex_lock(&mutex);
	}
}

int __wrap_xm_domain_grant(struct xm_grant *g)
{
	int ret = 0;

	pthread_mutex_lock(&mutex);
	device(&shut_grant);
	if (refuse) {
		ret = -ENOMEM;
	} else {
		g->rkey = ++granted;
		xm_assert(granted < KEYS_MAX);
		live[g->rkey] = g->slab;
	}
	pthread_mutex_unlock(&mutex);
	return ret;
}

void __wrap_xm_domain_revoke(struct xm_grant *g)
{
	pthread_mutex_lock(&mutex);
	device(&shut_revoke);
	xm_assert(live[g->rkey] == g->slab);
	live[g->rkey] = NULL;
	revoked++;
	revoked_by_pool += pthread_equal(pthread_self(), a.pool.thread) != 0;
	revoked_by_control += pthread_equal(pthread_self(), control) != 0;
	pthread_mutex_unlock(&mutex);
}

int __wrap_xm_domain_register(struct xm_domain *d, struct xm_slab *s)
{
	pthread_mutex_lock(&mutex);
	under_mutex += holds_registry;
	pthread_mutex_unlock(&mutex);
	if (s->domain && s->domain != d)
		return -EXDEV;
	s->domain = d;
	return 0;
}

int __wrap_xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out)
{
	int ret = __real_xm_slab_create(kind, false, out);

	xm_add(&made, ret == 0);
	return ret;
}

void __wrap_xm_slab_destroy(struct xm_slab *s)
{
	pthread_mutex_lock(&mutex);
	for (unsigned i = 0; i <= granted; i++)
		destroyed_with_keys += live[i] == s;
	pthread_mutex_unlock(&mutex);
	xm_add(&destroyed, 1);
	__real_xm_slab_destroy(s);
}

/* ---- sessions and requests ----------------------------------------------------------------------------- */

struct client {
	struct xm_session *s;
	struct xm_wire_msg in, out;
	struct xm_request r;
	unsigned minor; /* 0: today's */
	pthread_t thread;
	int done; /* atomic */
};

static void enter(struct client *c)
{
	struct xm_wire_hello h = { .role = XM_WIRE_ROLE_CONTROL };
	struct xm_hello_context context = { .local = true, .uid = getuid() };
	char text[XM_WIRE_TEXT] = "";

	xm_assert(xm_session_enter(&a, &h, &context, &c->s, text) ==
		  0); /* not always the test's own thread */
	pthread_mutex_lock(&a.mutex);
	c->s->domain = (struct xm_domain *)&names[names_used++ % sizeof(names)];
	pthread_mutex_unlock(&a.mutex);
}

/* Ends the session at once: there were unix sockets only. */
static void leave(struct client *c)
{
	struct xm_procid nobody = { 0 };

	xm_session_leave(&a, c->s, &nobody, true);
	xm_session_reap(&a);
	c->s = NULL;
}

static void *rest(void *arg)
{
	struct client *c = arg;

	xm_request_rest(&c->r);
	xm_store(&c->done, 1);
	return NULL;
}

/* true: all that is left is the worker's. */
static bool begin(struct client *c, uint16_t type)
{
	c->in.h = (struct xm_wire_header){ .type = type };
	c->r = (struct xm_request){ .a = &a,
				    .session = c->s,
				    .minor = c->minor ? c->minor : XM_WIRE_MINOR,
				    .in = &c->in,
				    .out = &c->out };
	return !xm_request_answer(&c->r);
}

static void start_ask(struct client *c, uint16_t type)
{
	xm_store(&c->done, 0);
	assert_true(begin(c, type));
	assert_int_equal(pthread_create(&c->thread, NULL, rest, c), 0);
}

static int finish(struct client *c)
{
	pthread_join(c->thread, NULL);
	return c->out.h.status;
}

static int ask(struct client *c, uint16_t type)
{
	if (!begin(c, type))
		return c->out.h.status;
	assert_int_equal(pthread_create(&c->thread, NULL, rest, c), 0);
	return finish(c);
}

static void want_shared(struct client *c, uint64_t slabs, uint32_t rights)
{
	memset(&c->in.u, 0, sizeof(c->in.u));
	c->in.u.create.size_bytes = slabs * RIG_SLAB;
	c->in.u.create.type = XM_WIRE_REGION_SHARED;
	strcpy(c->in.u.create.name, "ours");
	c->in.u.create.rules[0] = (struct xm_wire_rule){ .kind = XM_WIRE_RULE_ANYBODY, .rights = rights };
}

static uint64_t share(struct client *c, uint64_t slabs, uint32_t rights)
{
	want_shared(c, slabs, rights);
	assert_int_equal(ask(c, XM_WIRE_REGION_CREATE), 0);
	return c->out.u.region.id;
}

static void want_slabs(struct client *c, uint64_t region, uint64_t first, uint64_t count)
{
	c->in.u.slabs = (struct xm_wire_slabs){ region, first, count };
}

static int ask_slabs(struct client *c, uint16_t type, uint64_t region, uint64_t first, uint64_t count)
{
	want_slabs(c, region, first, count);
	return ask(c, type);
}

static int ask_key(struct client *c, uint64_t region, uint64_t slab)
{
	return ask_slabs(c, XM_WIRE_SLAB_KEYS, region, slab, 1);
}

static void want_region(struct client *c, uint64_t region, uint64_t value)
{
	c->in.u.op = (struct xm_wire_region_op){ .region = region, .value = value };
}

static int resize(struct client *c, uint64_t region, uint64_t slabs)
{
	want_region(c, region, slabs * RIG_SLAB);
	return ask(c, XM_WIRE_REGION_RESIZE);
}

static int free_region(struct client *c, uint64_t region)
{
	want_region(c, region, 0);
	return ask(c, XM_WIRE_REGION_FREE);
}

static struct xm_pool_stat stat(void)
{
	struct xm_pool_stat st;

	xm_pool_stat(&a.pool, &st);
	return st;
}

static unsigned alive(void)
{
	unsigned n;

	pthread_mutex_lock(&mutex);
	n = granted - revoked;
	pthread_mutex_unlock(&mutex);
	return n;
}

static void start_with(unsigned warm)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };

	shut_grant = shut_revoke = refuse = false;
	inside = granted = revoked = revoked_by_pool = revoked_by_control = under_mutex =
		destroyed_with_keys = 0;
	made = destroyed = 0;
	memset(live, 0, sizeof(live));
	memset(&a, 0, sizeof(a));
	control = pthread_self();
	assert_int_equal(xm_pool_init(&a.pool, &kind, SLABS * RIG_SLAB, warm), 0);
	assert_int_equal(xm_appliance_init(&a, "grants", 1), 0);
}

static int start(void **unused)
{
	start_with(0);
	return 0;
}

static int stop(void **unused)
{
	set(&shut_grant, false);
	set(&shut_revoke, false);
	xm_appliance_fini(&a);
	xm_pool_fini(&a.pool);
	assert_int_equal(a.pool.promised, 0);
	assert_int_equal(alive(), 0);
	assert_int_equal(made, destroyed);
	assert_int_equal(under_mutex, 0);
	assert_int_equal(destroyed_with_keys, 0);
	return 0;
}

#endif
