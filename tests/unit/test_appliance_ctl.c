/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_ctl.c - the control thread when it is kept busy: nobody is taken for silent, or kept waiting, because of
 * what somebody else asks for. The appliance runs in this process, so that a test can keep its control thread.
 */
#include "tests/unit/raw_client.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#define MS 1000000ull

static struct xm_appliance a;
static struct xm_data *data;
static struct xm_ctl *ctl;
static struct xm_listener listener;
static pthread_t thread;
static int keep_fd;
static int kept; /* atomic: the control thread is */
static int keep; /* atomic */

static void *run(void *unused)
{
	xm_ctl_run(ctl);
	return NULL;
}

/* A request that takes as long as a test likes. */
static void be_kept(void *unused)
{
	uint64_t count;

	assert_int_equal(read(keep_fd, &count, sizeof(count)), sizeof(count));
	xm_store(&kept, 1);
	while (xm_load(&keep))
		usleep(200);
	xm_store(&kept, 0);
}

static void keep_it(void)
{
	uint64_t one = 1;

	xm_store(&keep, 1);
	assert_int_equal(write(keep_fd, &one, sizeof(one)), sizeof(one));
	rig_until(xm_load(&kept));
}

static void let_it_go(void)
{
	xm_store(&keep, 0);
}

static void start(struct xm_ctl_limits limits)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	char why[XM_WHY_MAX];

	memset(&a, 0, sizeof(a));
	assert_int_equal(xm_pool_init(&a.pool, &kind, XM_REGION_SLABS_MAX * RIG_SLAB, 0), 0);
	assert_int_equal(xm_appliance_init(&a, "kept", 1000 * MS), 0);
	assert_int_equal(xm_data_create(&a, &data), 0);
	assert_int_equal(xm_ctl_create(&a, data, &limits, &ctl), 0);
	assert_int_equal(xm_listen("tcp:127.0.0.1:0", &listener, why), 0);
	assert_int_equal(xm_ctl_listen(ctl, &listener), 0);
	keep_fd = eventfd(0, EFD_CLOEXEC);
	assert_true(keep_fd >= 0);
	assert_int_equal(xm_ctl_watch(ctl, keep_fd, be_kept, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
}

static void stop(void)
{
	let_it_go();
	xm_ctl_stop(ctl);
	pthread_join(thread, NULL);
	xm_ctl_destroy(ctl);
	xm_data_destroy(data);
	xm_unlisten(&listener);
	xm_appliance_fini(&a);
	xm_pool_fini(&a.pool);
	close(keep_fd);
}

static const struct xm_ctl_limits usual = { 1024, 64, 5000 * MS, 5000 * MS };

static void wait_for(uint64_t ns)
{
	uint64_t end = xm_now_ns() + ns;

	while (xm_now_ns() < end)
		usleep(1000);
}

static void test_hello_when_it_comes_during_a_slow_request_then_is_heard(void **unused)
{
	struct xm_ctl_limits limits = usual;
	int fd[2];

	limits.hello_ns = limits.stall_ns = 800 * MS;
	start(limits);
	fd[0] = raw_connect(listener.uri);
	fd[1] = raw_connect(listener.uri);
	raw_session(fd[1]);
	raw_send(fd[1], "\x10\0\0\0\x02\0", 6); /* half a message: ping */
	rig_until(xm_load_relaxed(&a.connections) == 2);
	keep_it();
	hello(XM_WIRE_ROLE_CONTROL);
	raw_send_msg(fd[0]);
	raw_send(fd[1], "\0\0\0\0\0\0\0\0\0\0", 10);
	wait_for(limits.hello_ns + 300 * MS);
	let_it_go();
	assert_int_equal(raw_recv_msg(fd[0]), 1);
	assert_int_equal(msg.h.type, XM_WIRE_HELLO);
	assert_int_equal(raw_recv_msg(fd[1]), 1);
	assert_int_equal(msg.h.type, XM_WIRE_PING);
	close(fd[0]);
	close(fd[1]);
	stop();
}

static void test_hello_when_unread_and_strangers_are_many_then_is_heard(void **unused)
{
	struct xm_ctl_limits limits = usual;
	int fd[3];

	limits.strangers = 1;
	start(limits);
	fd[0] = raw_connect(listener.uri);
	rig_until(xm_load_relaxed(&a.connections) == 1);
	keep_it();
	fd[1] = raw_connect(listener.uri);
	hello(XM_WIRE_ROLE_CONTROL);
	raw_send_msg(fd[0]);
	wait_for(300 * MS); /* longer than a stranger may say nothing when others come */
	let_it_go();
	assert_int_equal(raw_recv_msg(fd[0]), 1);
	raw_session(fd[1]);
	fd[2] = raw_connect(listener.uri); /* and who says nothing makes room, as ever */
	raw_session(fd[2]);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(fd); i++)
		close(fd[i]);
	stop();
}

#define LONG_MESSAGE 60000u /* makes the buffer of its sender grow */
#define REQUESTS 1600u	    /* fit into it */
#define FEW 200u	    /* in a turn; 5 on an idle machine */

#if defined(__SANITIZE_THREAD__)
#define LARGE (XM_REGION_SLABS_MAX / 16) /* which takes as long there */
#else
#define LARGE (XM_REGION_SLABS_MAX - 1)
#endif

struct flood {
	int fd;
	uint64_t region;
	uint32_t answer; /* bytes of one */
	uint64_t bytes;	 /* atomic: that were answered */
};

static void *count_answers(void *arg)
{
	static uint8_t room[65536];
	struct flood *f = arg;
	ssize_t n;

	while ((n = recv(f->fd, room, sizeof(room), 0)) > 0)
		xm_add(&f->bytes, (uint64_t)n);
	return NULL;
}

/* One that is not known, and then requests that take long: a region's table is filled, and looked through. Bytes. */
static size_t make_requests(uint64_t region, uint8_t *to)
{
	size_t at = LONG_MESSAGE;

	memset(to, 0, at);
	to[0] = LONG_MESSAGE & 0xff;
	to[1] = LONG_MESSAGE >> 8;
	to[4] = 200;
	for (unsigned i = 0; i < REQUESTS; i++) {
		int len;

		memset(&msg, 0, sizeof(msg));
		msg.h.type = XM_WIRE_REGION_RESIZE;
		msg.u.op.region = region;
		msg.u.op.value = i % 2 ? RIG_SLAB : LARGE * RIG_SLAB;
		len = xm_wire_encode(&msg, to + at, 100);
		assert_in_range(len, 1, 100);
		at += (size_t)len;
	}
	return at;
}

/* How many of the requests were answered before a ping that was sent after them. */
static uint64_t answered_before_ping(struct flood *f, int other)
{
	static uint8_t many[LONG_MESSAGE + REQUESTS * 100];
	uint64_t before = xm_load(&f->bytes), after;
	size_t n = make_requests(f->region, many), part = LONG_MESSAGE + 16;

	raw_send(f->fd, many, part);
	rig_until(xm_load(&f->bytes) > before);
	keep_it();
	before = xm_load(&f->bytes);
	raw_send(f->fd, many + part, n - part);
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_PING;
	raw_send_msg(other);
	let_it_go();
	assert_int_equal(raw_recv_msg(other), 1);
	after = xm_load(&f->bytes);
	rig_until(xm_load(&f->bytes) == before + REQUESTS * f->answer);
	return (after - before) / f->answer;
}

static void test_peer_that_sends_many_requests_at_once_then_others_are_served_between(void **unused)
{
	uint64_t least = REQUESTS;
	struct flood f = { 0 };
	pthread_t reader;
	int other;

	start(usual);
	f.fd = raw_connect(listener.uri);
	other = raw_connect(listener.uri);
	raw_session(f.fd);
	raw_session(other);
	memset(&msg, 0, sizeof(msg));
	msg.u.create.size_bytes = RIG_SLAB;
	assert_int_equal(raw_ask(f.fd, XM_WIRE_REGION_CREATE), 0);
	f.region = msg.u.region.id;
	f.answer = (uint32_t)xm_wire_encode(&msg, bytes, sizeof(bytes));
	assert_int_equal(pthread_create(&reader, NULL, count_answers, &f), 0);
	for (unsigned i = 0; i < 5 && least > FEW; i++) { /* we may have been kept from looking */
		uint64_t now = answered_before_ping(&f, other);

		least = xm_min(least, now);
	}
	assert_in_range(least, 0, FEW);
	shutdown(f.fd, SHUT_RDWR);
	pthread_join(reader, NULL);
	close(f.fd);
	close(other);
	stop();
}

/* Takes every descriptor that is left, and what the appliance gives up. */
struct thief {
	int fd[512];
	unsigned count; /* atomic */
	int found_none; /* atomic: there was a moment without any */
	int stop;	/* atomic */
};

static void *steal(void *arg)
{
	struct thief *t = arg;

	while (!xm_load(&t->stop)) {
		int fd = t->count < XM_ARRAY_SIZE(t->fd) ? dup(keep_fd) : -1;

		if (fd < 0) {
			xm_store(&t->found_none, 1);
			continue;
		}
		t->fd[t->count] = fd;
		xm_store(&t->count, t->count + 1);
	}
	return NULL;
}

/* A stranger each time, until the appliance has lost its spare descriptor to the thief; those that it turned away are
 * closed. How many are left in `fd`, the last of which waits in the listener's queue. */
static unsigned lose_spare(struct thief *t, int *fd, unsigned n, const struct sockaddr *to, socklen_t len)
{
	unsigned taken, i = 0;

	while (!xm_load(&t->found_none)) /* only from then on what it takes is what the appliance gave up */
		wait_for(MS);
	taken = xm_load(&t->count);
	while (i < n && xm_load(&t->count) == taken) {
		assert_int_equal(connect(fd[i++], to, len), 0);
		wait_for(5 * MS);
	}
	return i;
}

static void test_descriptors_when_the_last_one_is_lost_then_accepting_pauses(void **unused)
{
	struct rlimit old, few;
	static struct thief t;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	uint64_t before, spent;
	pthread_t robber;
	unsigned used;
	int fd[100];
	bool lost;

	start(usual);
	assert_int_equal(getsockname(listener.fd, (struct sockaddr *)&ss, &len), 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(fd); i++)
		fd[i] = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 256;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(pthread_create(&robber, NULL, steal, &t), 0);
	used = lose_spare(&t, fd, XM_ARRAY_SIZE(fd) - 1, (struct sockaddr *)&ss, len);
	lost = used < XM_ARRAY_SIZE(fd) - 1;
	connect(fd[used], (struct sockaddr *)&ss, len);
	before = rig_cpu_ns(thread);
	wait_for(300 * MS);
	spent = rig_cpu_ns(thread) - before;
	xm_store(&t.stop, 1);
	pthread_join(robber, NULL);
	setrlimit(RLIMIT_NOFILE, &old);
	for (unsigned i = 0; i < t.count; i++)
		close(t.fd[i]);
	assert_in_range(spent, 0, 100 * MS);
	if (lost)
		raw_session(fd[used]); /* it was left waiting, and is served */
	for (unsigned i = 0; i < XM_ARRAY_SIZE(fd); i++)
		close(fd[i]);
	stop();
	if (!lost)
		skip(); /* the thief was never fast enough */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_when_it_comes_during_a_slow_request_then_is_heard),
		cmocka_unit_test(test_hello_when_unread_and_strangers_are_many_then_is_heard),
		cmocka_unit_test(test_peer_that_sends_many_requests_at_once_then_others_are_served_between),
		cmocka_unit_test(test_descriptors_when_the_last_one_is_lost_then_accepting_pauses),
	};

	xm_log_init("test_appliance_ctl", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
