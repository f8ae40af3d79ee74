/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_link_loss.c - the contract of link.h over every transport when connections break, clients or the
 * appliance die, and when trouble is injected.
 */
#include "tests/unit/link_fixture.h"

#include "link/inject.h"
#include "link/trace.h"

#include <pthread.h>
#include <sys/socket.h>

/* ---- loss ---------------------------------------------------------------------------------------------- */

static void test_reconnect_within_lease_keeps_data(void **unused)
{
	struct xm_peer_config cfg = { .place_fd = remember_fd };
	static uint8_t page[PAGE];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;

	if (!use_tcp)
		return; /* on one host the end of the connection is the end of the session */
	placed_count = 0;
	p = rig_peer_with(uri(), cfg);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	memset(page, 0x12, PAGE);
	assert_int_equal(put(l, page, PAGE, r.id, 0), 0);
	for (int round = 0; round < 3; round++) {
		cut_connections();
		rig_until(l->ops->state(l) == -ENOLINK);
		assert_int_equal(l->ops->read(l, page, PAGE, r.id, 0, 0), -ENOLINK);
		rig_until(rig_stat(&rig).connections <= 1);
		if (round == 1)
			xm_peer_tick(p);
		assert_int_equal(xm_link_reconnect(l), 0);
		memset(page, 0, PAGE);
		assert_int_equal(get(l, page, PAGE, r.id, 0), 0);
		assert_int_equal(page[77], 0x12);
		assert_int_equal(xm_peer_region_info(p, r.id, &r), 0); /* the control connection too */
		assert_int_equal(xm_peer_state(p), 0);
	}
	l->ops->close(l);
	xm_peer_close(p);
	rig_until(rig_stat(&rig).slabs_used == 0);
}

static void test_lease_over_frees_and_client_is_told(void **unused)
{
	struct xm_peer_config cfg = { .place_fd = remember_fd };
	struct rig_options o = rig_defaults();
	struct xm_region_info r;
	struct rig own;
	struct xm_peer *p;
	struct xm_link *l;

	if (!use_tcp)
		return;
	o.lease_ns = 200000000;
	rig_start(&own, &o);
	placed_count = 0;
	p = rig_peer_with(own.tcp, cfg);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, 3 * RIG_SLAB, NULL, 0, &r), 0);
	assert_int_equal(rig_stat(&own).slabs_used, 3);
	cut_connections();
	rig_until(rig_stat(&own).slabs_used == 0);
	assert_int_equal(xm_link_reconnect(l), -ENOLINK);
	assert_int_equal(xm_peer_state(p), -ENOLINK);
	assert_int_equal(xm_peer_region_info(p, r.id, &r), -ENOLINK);
	l->ops->close(l);
	xm_peer_close(p);
	rig_kill(&own);
}

static void stop_appliance(struct rig *r)
{
	int status;

	kill(r->pid, SIGSTOP);
	assert_int_equal(waitpid(r->pid, &status, WUNTRACED), r->pid);
	assert_true(WIFSTOPPED(status));
}

static void test_killed_appliance_completes_everything_once(void **unused)
{
	static uint8_t buf[XM_LINK_DEPTH][PAGE];
	struct rig_options o = rig_defaults();
	unsigned seen[XM_LINK_DEPTH] = { 0 }, accepted = 0, total = 0;
	struct xm_completion c[XM_LINK_DEPTH];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;
	struct rig own;

	rig_start(&own, &o);
	p = rig_peer(uri_of(&own));
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, 4 * RIG_SLAB, NULL, 0, &r), 0);
	stop_appliance(&own); /* so that requests stay in flight */
	for (uint64_t i = 0; i < XM_LINK_DEPTH / 2 && use_tcp; i++, accepted++)
		assert_int_equal(l->ops->read(l, buf[i], PAGE, r.id, i * PAGE, i), 0);
	l->ops->flush(l);
	rig_kill(&own);
	while (l->ops->wait(l, SECOND) == 0 && total < accepted) {
		int n = l->ops->poll(l, c, XM_LINK_DEPTH);

		for (int i = 0; i < n; i++, total++) {
			assert_int_equal(c[i].status, -ENOLINK);
			seen[c[i].cookie]++;
		}
	}
	for (unsigned i = 0; i < accepted; i++)
		assert_int_equal(seen[i], 1);
	assert_int_equal(l->ops->poll(l, c, 1), 0);
	/* same host: its death is certain, so nobody waits for the lease */
	rig_until((xm_peer_tick(p), xm_peer_state(p) == -ENOLINK));
	assert_int_equal(l->ops->state(l), -ENOLINK);
	assert_int_equal(l->ops->read(l, buf[0], PAGE, r.id, 0, 1), -ENOLINK);
	assert_int_equal(xm_link_reconnect(l), -ENOLINK);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), -ENOLINK);
	l->ops->close(l);
	xm_peer_close(p);
}

static void test_restarted_appliance_is_another_one(void **unused)
{
	struct rig_options o = rig_defaults();
	struct xm_region_info r;
	struct xm_peer *p;
	struct rig own, again;

	rig_start(&own, &o);
	p = rig_peer(uri_of(&own));
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	o.shm = own.shm;
	o.tcp = own.tcp;
	rig_kill(&own);
	rig_start(&again, &o);
	assert_int_equal(xm_peer_region_info(p, r.id, &r), -ENOLINK);
	assert_int_equal(xm_peer_state(p), -ENOLINK);
	xm_peer_close(p);
	rig_kill(&again);
}

static void test_stopped_appliance_makes_sync_time_out(void **unused)
{
	struct rig_options o = rig_defaults();
	static uint8_t page[PAGE];
	struct xm_region_info r;
	struct xm_peer *p;
	struct xm_link *l;
	struct rig own;

	if (!use_tcp)
		return; /* nobody is asked */
	rig_start(&own, &o);
	p = rig_peer(own.tcp);
	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	stop_appliance(&own);
	assert_int_equal(link_read_sync(l, page, PAGE, r.id, 0, 20000000), -ETIMEDOUT);
	assert_int_equal(l->ops->state(l), -ENOLINK);
	kill(own.pid, SIGCONT);
	assert_int_equal(xm_link_reconnect(l), 0);
	assert_int_equal(get(l, page, PAGE, r.id, 0), 0);
	l->ops->close(l);
	xm_peer_close(p);
	rig_kill(&own);
}

/* ---- an appliance that does not answer ------------------------------------------------------------------- */

#define LOST_NS SECOND
#define SMALL_NS (4 * SECOND) /* 35 ms when the machine is free; other tests may keep us from running */

static struct xm_peer *impatient_peer(const char *at)
{
	return rig_peer_with(
		at, (struct xm_peer_config){ .client_name = "impatient", .lost_timeout_ns = LOST_NS });
}

struct victim {
	pthread_t thread;
	struct xm_link *link;
	uint64_t region;
	bool write;
	int status, reconnect;
	uint64_t failed_ns; /* atomic */
	uint64_t gave_up_ns;
};

/* What the runtime does: one operation, then the reconnect; both must end in time. */
static void *be_victim(void *arg)
{
	static uint8_t page[PAGE];
	struct victim *v = arg;
	uint8_t own[PAGE];
	struct iovec iov = { page, PAGE };
	struct xm_completion c = { .status = 1 };
	uint64_t start = xm_now_ns();

	v->status = v->write ? v->link->ops->writev(v->link, &iov, 1, v->region, 0, 1)
			     : v->link->ops->read(v->link, own, PAGE, v->region, 0, 1);
	v->link->ops->flush(v->link);
	while (v->status == 0 && v->link->ops->poll(v->link, &c, 1) == 0 &&
	       xm_now_ns() - start < 10 * LOST_NS)
		v->link->ops->wait(v->link, SECOND / 10);
	if (v->status == 0)
		v->status = c.status;
	xm_store(&v->failed_ns, xm_now_ns() - start);
	v->reconnect = xm_link_reconnect(v->link);
	v->gave_up_ns = xm_now_ns() - start;
	return NULL;
}

static void run_victims(struct victim *v, int n, struct xm_peer *p, uint64_t region)
{
	for (int i = 0; i < n; i++) {
		v[i].region = region;
		v[i].write = i & 1;
		assert_int_equal(pthread_create(&v[i].thread, NULL, be_victim, &v[i]), 0);
	}
	xm_peer_tick(p); /* as the background thread would */
	for (int i = 0; i < n; i++) {
		pthread_join(v[i].thread, NULL);
		assert_int_equal(v[i].status, -ENOLINK);
		assert_int_equal(v[i].reconnect, -ENOLINK);
		assert_in_range(v[i].failed_ns, 0, LOST_NS + SMALL_NS);
		assert_in_range(v[i].gave_up_ns, 0, LOST_NS + SMALL_NS);
		v[i].link->ops->close(v[i].link);
	}
}

static void lose(void (*how)(struct rig *r))
{
	struct rig_options o = rig_defaults();
	struct victim v[4] = { 0 };
	struct xm_region_info r;
	struct xm_peer *p;
	struct rig own;

	if (!use_tcp)
		return; /* one-sided: a stopped appliance is no obstacle; a dead one has its own test */
	rig_start(&own, &o);
	p = impatient_peer(own.tcp);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(v); i++)
		assert_int_equal(xm_link_open(p, &v[i].link), 0);
	how(&own);
	run_victims(v, XM_ARRAY_SIZE(v), p, r.id);
	xm_peer_close(p);
	rig_kill(&own);
}

static void test_stopped_appliance_when_operations_are_in_flight_then_enolink_in_time(void **unused)
{
	lose(stop_appliance);
}

static void test_killed_appliance_when_operations_are_in_flight_then_enolink_in_time(void **unused)
{
	lose(rig_kill);
}

static void test_pause_shorter_than_lost_timeout_when_over_then_link_comes_back(void **unused)
{
	struct rig_options o = rig_defaults();
	struct victim v = { 0 };
	static uint8_t page[PAGE];
	struct xm_region_info r;
	struct xm_peer *p;
	struct rig own;

	if (!use_tcp)
		return;
	rig_start(&own, &o);
	p = rig_peer_with(own.tcp, (struct xm_peer_config){ .lost_timeout_ns = 4 * SECOND });
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	assert_int_equal(xm_link_open(p, &v.link), 0);
	v.region = r.id;
	stop_appliance(&own);
	assert_int_equal(pthread_create(&v.thread, NULL, be_victim, &v), 0);
	rig_until(xm_load(&v.failed_ns)); /* the silence that ends a connection is over */
	kill(own.pid, SIGCONT);
	pthread_join(v.thread, NULL);
	assert_int_equal(v.status, -ENOLINK);
	assert_int_equal(v.reconnect, 0);
	assert_int_equal(get(v.link, page, PAGE, r.id, 0), 0);
	v.link->ops->close(v.link);
	xm_peer_close(p);
	rig_kill(&own);
}

#define MANY 60

/* Attaches, then writes to each slab; the first error. *step: 0 was to attach, s + 1 to write to slab s; *ns: how long
 * that took */
static int attach_and_write(struct fixture *f, uint64_t *step, uint64_t *ns)
{
	static uint8_t page[PAGE];
	uint64_t start = xm_now_ns();
	int ret = xm_peer_region_attach(f->peer, f->region.id, 0, MANY);

	*step = 0;
	while (ret == 0 && *step < MANY) {
		start = xm_now_ns();
		ret = put(f->link, page, PAGE, f->region.id, (*step)++ * RIG_SLAB);
	}
	*ns = xm_now_ns() - start;
	return ret;
}

static void test_few_descriptors_are_enough_for_many_slabs(void **unused)
{
	struct rlimit old, few;
	siginfo_t ended = { 0 };
	uint64_t step, ns;
	struct fixture f;
	int fds[40], n = 0, ret;

	open_fixture(&f, MANY);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 48;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < 40 && (fds[n] = dup(0)) >= 0)
		n++;
	if (n)
		close(fds[--n]);
	ret = attach_and_write(&f, &step, &ns);
	/* all of it before anything is asserted: the tests that follow need it */
	setrlimit(RLIMIT_NOFILE, &old);
	while (n > 0)
		close(fds[--n]);
	waitid(P_PID, (id_t)rig.pid, &ended, WEXITED | WNOHANG | WNOWAIT);
	f.link->ops->close(f.link);
	xm_peer_close(f.peer);
	if (ret < 0)
		fail_msg("step %llu of %u (0: attach): %s after %llu ms; the appliance %s",
			 (unsigned long long)step, MANY, xm_strerror(ret), (unsigned long long)(ns / 1000000),
			 ended.si_pid ? "has ended" : "runs");
	rig_until(rig_stat(&rig).slabs_used == 0);
}

/* ---- decorators ---------------------------------------------------------------------------------------- */

static struct xm_link *injected(struct fixture *f, const char *spec)
{
	struct xm_link *out = NULL;

	assert_int_equal(xm_inject_wrap(f->link, spec, &out), 0);
	return out;
}

/* A model of 64 pages beside the link; whatever is injected, each operation comes back once, and what
 * completed without error is what the model says. */
static void test_injected_trouble_completes_once_and_keeps_order_of_data(void **unused)
{
	static uint8_t model[64][PAGE], buf[64][PAGE], want[64][PAGE];
	uint8_t unsure[64] = { 0 };
	unsigned errors = 0, drops = 0;
	char spec[120];
	struct fixture f;
	uint64_t x = seed;

	open_fixture(&f, 1);
	memset(model, 0, sizeof(model));
	snprintf(spec, sizeof(spec), "seed=%llu,delay=100us:0.05,error=0.02,disconnect=0.01",
		 (unsigned long long)seed);
	f.link = injected(&f, spec);
	for (unsigned round = 0; round < 150; round++) {
		unsigned pending = 0, seen[64] = { 0 }, is_write[64], submitted[64] = { 0 };

		for (uint64_t i = 0; i < 64; i++) {
			struct iovec iov = { buf[i], PAGE };
			int ret;

			x = x * 6364136223846793005ull + 1442695040888963407ull;
			is_write[i] = x >> 63;
			if (is_write[i]) {
				fill(buf[i], PAGE, x);
				memcpy(want[i], buf[i], PAGE);
				ret = f.link->ops->writev(f.link, &iov, 1, f.region.id, i * PAGE, i);
			} else {
				ret = f.link->ops->read(f.link, buf[i], PAGE, f.region.id, i * PAGE, i);
			}
			assert_true(ret == 0 || ret == -ENOLINK);
			submitted[i] = ret == 0;
			pending += ret == 0;
		}
		f.link->ops->flush(f.link);
		while (pending) {
			struct xm_completion c[8];
			int n = f.link->ops->poll(f.link, c, 8);

			if (!n)
				assert_int_equal(f.link->ops->wait(f.link, 5 * SECOND), 0);
			for (int i = 0; i < n; i++, pending--) {
				uint64_t at = c[i].cookie;

				assert_true(at < 64 && submitted[at] && !seen[at]++);
				assert_true(c[i].status == 0 || c[i].status == -EIO ||
					    c[i].status == -ENOLINK);
				errors += c[i].status != 0;
				if (is_write[at] && c[i].status == 0)
					memcpy(model[at], want[at], PAGE);
				if (is_write[at])
					unsure[at] = c[i].status == -ENOLINK || (unsure[at] && c[i].status);
				else if (c[i].status == 0 && !unsure[at])
					assert_memory_equal(buf[at], model[at], PAGE);
			}
		}
		if (f.link->ops->state(f.link) < 0) {
			drops++;
			assert_int_equal(xm_link_reconnect(f.link), 0);
		}
	}
	assert_true(errors > 0);
	assert_true(drops > 0);
	close_fixture(&f);
}

static void test_injected_corruption_flips_one_bit(void **unused)
{
	static uint8_t page[PAGE], back[PAGE];
	unsigned bits = 0;
	struct fixture f;

	open_fixture(&f, 1);
	fill(page, PAGE, seed);
	assert_int_equal(put(f.link, page, PAGE, f.region.id, 0), 0);
	f.link = injected(&f, "corrupt=1");
	assert_int_equal(get(f.link, back, PAGE, f.region.id, 0), 0);
	for (unsigned i = 0; i < PAGE; i++)
		bits += (unsigned)__builtin_popcount(page[i] ^ back[i]);
	assert_int_equal(bits, 1);
	assert_null(f.link->ops->direct(f.link, f.region.id, 0, PAGE, false));
	close_fixture(&f);
}

static void test_inject_specification_is_checked(void **unused)
{
	struct xm_inject_spec s;

	assert_int_equal(
		xm_inject_parse("seed=7,delay=200us:0.01,error=0.001,disconnect=0.0005,corrupt=1", &s), 0);
	assert_int_equal(s.seed, 7);
	assert_int_equal(s.delay_ns, 200000);
	assert_true(s.delay > 0.0099 * 4294967296.0 && s.delay < 0.0101 * 4294967296.0);
	assert_true(s.error > 0.00099 * 4294967296.0 && s.error < 0.00101 * 4294967296.0);
	assert_int_equal(s.corrupt, UINT32_MAX);
	assert_int_equal(xm_inject_parse("", &s), 0);
	assert_int_equal(s.error, 0);
	assert_int_equal(xm_inject_parse("error", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=2", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=-1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("error=0.1x", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("delay=0.1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("delay=5:0.1", &s), -EINVAL);
	assert_int_equal(xm_inject_parse("colour=red", &s), -EINVAL);
}

static void test_trace_remembers_operations(void **unused)
{
	static uint8_t page[PAGE];
	const struct xm_trace_entry *e;
	struct xm_link *traced;
	struct fixture f;

	open_fixture(&f, 1);
	assert_int_equal(xm_trace_wrap(f.link, &traced), 0);
	f.link = traced;
	assert_int_equal(put(traced, page, PAGE, f.region.id, 3 * PAGE), 0);
	assert_int_equal(xm_trace_count(traced), 3); /* write, flush, completion */
	e = xm_trace_get(traced, 0);
	assert_int_equal(e->what, XM_TRACE_WRITE);
	assert_int_equal(e->off, 3 * PAGE);
	assert_int_equal(e->len, PAGE);
	assert_int_equal(xm_trace_get(traced, 2)->what, XM_TRACE_COMPLETION);
	assert_null(xm_trace_get(traced, 3));
	for (unsigned i = 0; i < XM_TRACE_ENTRIES; i++)
		assert_int_equal(get(traced, page, PAGE, f.region.id, 0), 0);
	assert_null(xm_trace_get(traced, 0));
	close_fixture(&f);
}

static void test_open_explains_what_is_wrong(void **unused)
{
	struct xm_peer_config cfg = { .connect_timeout_ns = SECOND };
	char why[XM_WHY_MAX] = "";
	struct xm_peer *p;

	cfg.uri = "shm:@xmem-nobody-is-there";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -ECONNREFUSED);
	assert_non_null(strstr(why, "xmem-appliance"));
	cfg.uri = "tcp:127.0.0.1:1";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -ECONNREFUSED);
	cfg.uri = "carrier-pigeon:coop";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	assert_non_null(strstr(why, "carrier-pigeon"));
	cfg.uri = "tcp:127.0.0.1:http";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	cfg.uri = "shm:";
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
	cfg.uri = NULL;
	assert_int_equal(xm_peer_open(&cfg, &p, why), -EINVAL);
}

/* ---- the child of a fork -------------------------------------------------------------------------------- */

static int attempts; /* a byte for each connection that is tried */

static int count_attempt(int fd)
{
	return write(attempts, "x", 1) == 1 ? fd : -EIO;
}

/* A child that has a connection, or not: 0 or 1. */
static pid_t fork_child_of(struct xm_peer *p)
{
	char why[XM_WHY_MAX];
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(xm_peer_after_fork(p, why) < 0);
	return pid;
}

static int exit_of(pid_t pid)
{
	int status = 0;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_fork_child_when_appliance_slow_then_tries_again(void **unused)
{
	struct xm_peer_config cfg = { .place_fd = count_attempt, .connect_timeout_ns = SECOND / 5,
				      .lost_timeout_ns = 20 * SECOND };
	struct rig_options o = rig_defaults();
	struct xm_peer *p;
	struct rig own;
	char byte;
	int fds[2];
	pid_t pid;

	rig_start(&own, &o); /* before the pipe, which it would keep open */
	assert_int_equal(pipe(fds), 0);
	attempts = fds[1];
	p = rig_peer_with(uri_of(&own), cfg);
	stop_appliance(&own);
	pid = fork_child_of(p);
	close(fds[1]); /* the pipe ends with the child */
	for (int i = 0; i < 3 && read(fds[0], &byte, 1) == 1; i++)
		; /* the parent's, and two of the child's: the first one was given up */
	kill(own.pid, SIGCONT);
	assert_int_equal(exit_of(pid), 0);
	xm_peer_close(p);
	rig_kill(&own);
	close(fds[0]);
}

static void test_fork_child_when_appliance_dead_then_ends_at_once(void **unused)
{
	struct xm_peer_config cfg = { .lost_timeout_ns = 1000 * SECOND };
	struct rig_options o = rig_defaults();
	struct xm_peer *p;
	struct rig own;

	rig_start(&own, &o);
	p = rig_peer_with(uri_of(&own), cfg);
	rig_kill(&own);
	assert_int_equal(exit_of(fork_child_of(p)), 1); /* else the test runs into its time limit */
	xm_peer_close(p);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(test_reconnect_within_lease_keeps_data),
	cmocka_unit_test(test_lease_over_frees_and_client_is_told),
	cmocka_unit_test(test_killed_appliance_completes_everything_once),
	cmocka_unit_test(test_restarted_appliance_is_another_one),
	cmocka_unit_test(test_stopped_appliance_makes_sync_time_out),
	cmocka_unit_test(test_stopped_appliance_when_operations_are_in_flight_then_enolink_in_time),
	cmocka_unit_test(test_killed_appliance_when_operations_are_in_flight_then_enolink_in_time),
	cmocka_unit_test(test_pause_shorter_than_lost_timeout_when_over_then_link_comes_back),
	cmocka_unit_test(test_few_descriptors_are_enough_for_many_slabs),
	cmocka_unit_test(test_injected_trouble_completes_once_and_keeps_order_of_data),
	cmocka_unit_test(test_injected_corruption_flips_one_bit),
	cmocka_unit_test(test_inject_specification_is_checked),
	cmocka_unit_test(test_trace_remembers_operations),
	cmocka_unit_test(test_open_explains_what_is_wrong),
	cmocka_unit_test(test_fork_child_when_appliance_slow_then_tries_again),
	cmocka_unit_test(test_fork_child_when_appliance_dead_then_ends_at_once),
};

int main(void)
{
	return run_on_each_transport(tests, XM_ARRAY_SIZE(tests));
}
