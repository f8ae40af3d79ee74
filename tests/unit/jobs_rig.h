/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs_rig.h - an appliance in the test's own process whose long requests take as long as the test likes, and clients of
 * it. Slabs are made, registered and destroyed through here (tests/module.mk): a request whose seq says HOLD stops there
 * until the test opens the gate. Domains are names only, for there is no device. Checked after every test: no two long
 * requests of one session at a time, none on the control thread, and every slab, promise and thread comes back. A header
 * of test_appliance_jobs.c alone, for it defines what the linker wraps.
 */
#ifndef XM_JOBS_RIG_H
#define XM_JOBS_RIG_H

#include "tests/unit/raw_client.h"
#include "tests/unit/slab_wraps.h"

#include "appliance/job.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>

#define MS 1000000ull
#define SLABS 128u	 /* of the appliance */
#define SIZE 4u		 /* slabs of a client's region, of which the first one has memory */
#define HOLD 0x40000000u /* in seq */
#define ALWAYS 1000000u
#define LINK 7u /* of who has one connection */

void __real_xm_request_rest(struct xm_request *r);
void __wrap_xm_request_rest(struct xm_request *r);
int __real_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout_ms);
int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout_ms);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __real_pthread_join(pthread_t t, void **ret);
int __wrap_pthread_join(pthread_t t, void **ret);
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);

static struct xm_appliance a;
static struct xm_ctl *ctl;
static struct xm_listener tcp, shm;
static pthread_t thread;
static bool running; /* the control thread */
static __thread bool is_control, is_held;
static uint64_t rounds;		 /* atomic: of the control thread */
static uint64_t made, destroyed; /* atomic: slabs */
static uint64_t threads, joined; /* atomic */
static int no_threads;		 /* atomic: the control thread cannot make any */
static int no_memory;		 /* atomic: none for a job */
static int slow;		 /* atomic: slabs take up to 2 ms */
static bool may_be_on_control;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* what follows */
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static unsigned inside, permits;
static unsigned overlaps, on_control; /* what may not be */
static const struct xm_session *at_work[XM_JOB_WORKERS + 1];
static uint32_t order[64]; /* seqs of the first requests whose rest began, in that order */
static unsigned begun;

/* ---- what the appliance calls ------------------------------------------------------------------------- */

static void pass(void)
{
	static unsigned calls;

	if (xm_load(&slow))
		usleep(__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) * 617 % 2000);
	if (!is_held)
		return;
	is_held = false; /* once a request */
	pthread_mutex_lock(&mutex);
	inside++;
	while (!permits)
		pthread_cond_wait(&opened, &mutex);
	permits--;
	inside--;
	pthread_mutex_unlock(&mutex);
}

int __wrap_xm_slab_create(const struct xm_slab_kind *kind, bool populate, struct xm_slab **out)
{
	int ret;

	pass();
	ret = __real_xm_slab_create(kind, populate, out);
	xm_add(&made, ret == 0);
	return ret;
}

void __wrap_xm_slab_destroy(struct xm_slab *s)
{
	pass();
	xm_add(&destroyed, 1);
	__real_xm_slab_destroy(s);
}

int __wrap_xm_domain_register(struct xm_domain *d, struct xm_slab *s)
{
	pass();
	s->domain = d;
	return 0;
}

static unsigned begin(const struct xm_request *r)
{
	unsigned at = XM_ARRAY_SIZE(at_work);

	pthread_mutex_lock(&mutex);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(at_work); i++) {
		overlaps += at_work[i] == r->session;
		if (!at_work[i])
			at = i;
	}
	xm_assert(at < XM_ARRAY_SIZE(at_work));
	at_work[at] = r->session;
	on_control += is_control;
	if (begun < XM_ARRAY_SIZE(order))
		order[begun] = r->in->h.seq & ~HOLD;
	begun++;
	pthread_mutex_unlock(&mutex);
	return at;
}

void __wrap_xm_request_rest(struct xm_request *r)
{
	unsigned at = begin(r);

	is_held = r->in->h.seq & HOLD;
	__real_xm_request_rest(r);
	is_held = false;
	pthread_mutex_lock(&mutex);
	at_work[at] = NULL;
	pthread_mutex_unlock(&mutex);
}

int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout_ms)
{
	xm_add(&rounds, 1);
	return __real_epoll_wait(fd, ev, max, timeout_ms);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	int err = EAGAIN;

	if (!is_control || !xm_load(&no_threads))
		err = __real_pthread_create(t, attr, fn, arg);
	xm_add(&threads, err == 0);
	return err;
}

int __wrap_pthread_join(pthread_t t, void **ret)
{
	xm_add(&joined, 1);
	return __real_pthread_join(t, ret);
}

void *__wrap_malloc(size_t n)
{
	return n == sizeof(struct xm_job) && xm_load(&no_memory) ? NULL : __real_malloc(n);
}

/* ---- the gate ------------------------------------------------------------------------------------------ */

static unsigned locked(const unsigned *what)
{
	unsigned n;

	pthread_mutex_lock(&mutex);
	n = *what;
	pthread_mutex_unlock(&mutex);
	return n;
}

static void open_for(unsigned n)
{
	pthread_mutex_lock(&mutex);
	permits = n;
	pthread_cond_broadcast(&opened);
	pthread_mutex_unlock(&mutex);
}

/* The requests whose rest has begun are these, one digit each, in this order. */
static void assert_order(const char *digits)
{
	char text[XM_ARRAY_SIZE(order) + 1] = "";

	pthread_mutex_lock(&mutex);
	for (unsigned i = 0; i < begun && i < XM_ARRAY_SIZE(order); i++)
		text[i] = (char)('0' + order[i]);
	pthread_mutex_unlock(&mutex);
	assert_string_equal(text, digits);
}

static void forget_order(void)
{
	pthread_mutex_lock(&mutex);
	begun = 0;
	pthread_mutex_unlock(&mutex);
}

/* ---- clients ------------------------------------------------------------------------------------------- */

struct client {
	int fd;
	struct xm_wire_hello_reply me;
	uint64_t region;
};

struct ask {
	uint16_t type;
	uint32_t seq;
	uint64_t region, value; /* value: bytes, or which slab */
};

static struct client other; /* of its own session, and over a unix socket; made for every test */
static int fds[256];
static unsigned fd_count;
static uint8_t batch[16384];
static size_t batch_len;

static int dial(const char *uri)
{
	assert_true(fd_count < XM_ARRAY_SIZE(fds));
	fds[fd_count] = raw_connect(uri);
	return fds[fd_count++];
}

static void hang_up(int fd)
{
	for (unsigned i = 0; i < fd_count; i++)
		if (fds[i] == fd)
			fds[i--] = fds[--fd_count];
	close(fd);
}

static void add(struct ask q)
{
	int len;

	memset(&msg, 0, sizeof(msg));
	msg.h.type = q.type;
	msg.h.seq = q.seq;
	if (q.type == XM_WIRE_SLAB_MAP || q.type == XM_WIRE_SLAB_KEYS || q.type == XM_WIRE_REGION_DROP)
		msg.u.slabs = (struct xm_wire_slabs){ q.region, q.value, 1 };
	else if (q.type == XM_WIRE_REGION_CREATE)
		msg.u.create.size_bytes = q.value;
	else if (q.type >= XM_WIRE_REGION_RESIZE && q.type <= XM_WIRE_REGION_LIST)
		msg.u.op = (struct xm_wire_region_op){ .region = q.region, .value = q.value };
	len = xm_wire_encode(&msg, batch + batch_len, sizeof(batch) - batch_len);
	assert_true(len > 0);
	batch_len += (size_t)len;
}

static void send_batch(int fd)
{
	raw_send(fd, batch, batch_len);
	batch_len = 0;
}

static void ask(int fd, struct ask q)
{
	add(q);
	send_batch(fd);
}

static void assert_answer(int fd, uint16_t type, uint32_t seq)
{
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.type, type);
	assert_int_equal(msg.h.seq, seq);
	assert_int_equal(msg.h.status, 0);
}

static void get(int fd, uint16_t type, uint64_t region, uint64_t value)
{
	ask(fd, (struct ask){ type, 99, region, value });
	assert_answer(fd, type, 99);
}

static void assert_silent(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 0), 0);
}

/* What was sent over unix sockets so far has been looked at. Twice: the first ping may be answered before what lies
 * behind it in the same round. */
static void barrier(void)
{
	get(other.fd, XM_WIRE_PING, 0, 0);
	get(other.fd, XM_WIRE_PING, 0, 0);
}

/* The session; NULL: over. Mutex held. */
static struct xm_session *find(uint64_t id)
{
	struct xm_session *s = a.sessions;

	while (s && s->id != id)
		s = s->next;
	return s;
}

/* Connections of the session; -1: over. */
static int connections_of(const struct client *c)
{
	const struct xm_session *s;
	int n;

	pthread_mutex_lock(&a.mutex);
	s = find(c->me.session);
	n = s ? (int)s->connections : -1;
	pthread_mutex_unlock(&a.mutex);
	return n;
}

/* Says hello; me: whose session, all zero: a new one, which is told. The status. */
static int introduce(int fd, struct xm_wire_hello_reply *me, uint64_t link)
{
	static uint8_t names[4096];
	struct xm_session *s;

	hello(XM_WIRE_ROLE_CONTROL);
	msg.u.hello.session = me->session;
	memcpy(msg.u.hello.token, me->token, sizeof(me->token));
	msg.u.hello.minor = XM_WIRE_MINOR;
	msg.u.hello.link = link;
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.type, XM_WIRE_HELLO);
	if (msg.h.status < 0 || me->session)
		return msg.h.status;
	*me = msg.u.hello_reply;
	pthread_mutex_lock(&a.mutex);
	s = find(me->session);
	assert_true(s && s->index < sizeof(names));
	s->domain = (struct xm_domain *)&names[s->index];
	pthread_mutex_unlock(&a.mutex);
	return 0;
}

static int attach(struct client *c, const char *uri, uint64_t link)
{
	int fd = dial(uri);

	assert_int_equal(introduce(fd, &c->me, link), 0);
	return fd;
}

static uint64_t create(int fd)
{
	uint64_t id;

	get(fd, XM_WIRE_REGION_CREATE, 0, SIZE * RIG_SLAB);
	id = msg.u.region.id;
	get(fd, XM_WIRE_SLAB_KEYS, id, 0);
	return id;
}

static struct client enter(const char *uri, uint64_t link)
{
	struct client c = { .fd = dial(uri) };

	assert_int_equal(introduce(c.fd, &c.me, link), 0);
	c.region = create(c.fd);
	forget_order();
	return c;
}

/* A request for its first slab's key. */
static struct ask keys(const struct client *c, uint32_t seq)
{
	return (struct ask){ XM_WIRE_SLAB_KEYS, seq, c->region, 0 };
}

static void ask_held(int fd, struct ask q)
{
	unsigned before = locked(&inside);

	q.seq |= HOLD;
	ask(fd, q);
	rig_until(locked(&inside) == before + 1);
}

static uint64_t promised(void)
{
	struct xm_pool_stat st;

	xm_pool_stat(&a.pool, &st);
	return st.promised_slabs;
}

/* ---- start and end ------------------------------------------------------------------------------------- */

static void *run(void *unused)
{
	is_control = true;
	xm_ctl_run(ctl);
	return NULL;
}

static void start_with(uint64_t stall_ns)
{
	struct xm_ctl_limits limits = { 1024, 64, 5000 * MS, stall_ns };
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	char why[XM_WHY_MAX], name[64];

	inside = permits = overlaps = on_control = begun = 0;
	made = destroyed = threads = joined = 0;
	slow = no_threads = no_memory = 0;
	may_be_on_control = false;
	batch_len = 0;
	memset(at_work, 0, sizeof(at_work));
	memset(&a, 0, sizeof(a));
	/* a session that nobody holds ends at once */
	assert_int_equal(xm_pool_init(&a.pool, &kind, SLABS * RIG_SLAB, 0), 0);
	assert_int_equal(xm_appliance_init(&a, "jobs", MS), 0);
	assert_int_equal(xm_ctl_create(&a, NULL, &limits, &ctl), 0);
	assert_int_equal(xm_listen("tcp:127.0.0.1:0", &tcp, why), 0);
	snprintf(name, sizeof(name), "shm:@xmem-jobs-%d", (int)getpid());
	assert_int_equal(xm_listen(name, &shm, why), 0);
	assert_int_equal(xm_ctl_listen(ctl, &tcp), 0);
	assert_int_equal(xm_ctl_listen(ctl, &shm), 0);
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
	running = true;
	other = (struct client){ .fd = dial(shm.uri) };
	assert_int_equal(introduce(other.fd, &other.me, 0), 0);
}

static int start(void **unused)
{
	start_with(5000 * MS);
	return 0;
}

static int start_impatient(void **unused)
{
	start_with(300 * MS);
	return 0;
}

static void end_control(void)
{
	if (!running)
		return;
	running = false;
	xm_ctl_stop(ctl);
	pthread_join(thread, NULL);
}

static int stop(void **unused)
{
	open_for(ALWAYS);
	end_control();
	xm_unlisten(&tcp);
	xm_unlisten(&shm);
	xm_ctl_destroy(ctl);
	while (fd_count)
		hang_up(fds[0]);
	xm_appliance_fini(&a);
	assert_int_equal(promised(), 0);
	xm_pool_fini(&a.pool);
	assert_int_equal(made, destroyed);
	assert_int_equal(overlaps, 0);
	assert_true(may_be_on_control || !on_control);
	assert_int_equal(threads, joined);
	return 0;
}

#endif
