/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance.c - the appliance's own modules, and what strangers can do to it: raw sockets that send
 * anything.
 */
#include "tests/link_sync.h"
#include "tests/unit/raw_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>

static struct rig rig;

static void still_serves(void)
{
	struct xm_peer *p = rig_peer(rig.shm);
	struct xm_region_info r;
	static uint8_t page[4096];
	struct xm_link *l;

	assert_int_equal(xm_link_open(p, &l), 0);
	assert_int_equal(xm_peer_region_create(p, RIG_SLAB, NULL, 0, &r), 0);
	assert_int_equal(link_read_sync(l, page, sizeof(page), r.id, 0, 1000000000), 0);
	l->ops->close(l);
	xm_peer_close(p);
	rig_until(rig_stat(&rig).slabs_used == 0);
}

/* ---- hostile strangers --------------------------------------------------------------------------------- */

static void test_other_major_is_refused_in_words(void **unused)
{
	const char *uri[] = { rig.shm, rig.tcp };

	for (int i = 0; i < 2; i++) {
		int fd = raw_connect(uri[i]);

		hello(XM_WIRE_ROLE_CONTROL);
		msg.u.hello.major = 7;
		raw_send_msg(fd);
		assert_int_equal(raw_recv_msg(fd), 1);
		assert_int_equal(msg.h.status, -EPROTONOSUPPORT);
		assert_int_equal(msg.u.error.major, XM_WIRE_MAJOR);
		assert_non_null(strstr(msg.u.error.text, "7.0"));
		assert_true(closed(fd));
		close(fd);
	}
	still_serves();
}

static void test_nonsense_is_answered_and_closed(void **unused)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	static const uint8_t huge[16] = { 0xff, 0xff, 0xff, 0x7f, 1 };
	static const uint8_t tiny[16] = { 3, 0, 0, 0, 1 };
	static const uint8_t large[16] = { 0, 8, 0, 0, 1 }; /* 2048: more than a stranger may say */
	static const struct {
		const void *p;
		size_t n;
	} what[] = { { http, sizeof(http) }, { huge, 16 }, { tiny, 16 }, { large, 16 } };

	for (unsigned i = 0; i < XM_ARRAY_SIZE(what) * 2; i++) {
		int fd = raw_connect(i % 2 ? rig.shm : rig.tcp);

		raw_send(fd, what[i / 2].p, what[i / 2].n);
		while (raw_recv_msg(fd))
			assert_int_equal(msg.h.type, XM_WIRE_ERROR);
		close(fd);
	}
	still_serves();
}

static void test_random_bytes_never_harm(void **unused)
{
	const char *given = getenv("XM_SEED");
	uint64_t x = given ? strtoull(given, NULL, 0) : xm_now_ns();
	static uint8_t junk[4096];

	printf("XM_SEED=%llu\n", (unsigned long long)x);
	for (unsigned round = 0; round < 200; round++) {
		int fd = raw_connect(round % 2 ? rig.shm : rig.tcp);
		size_t n;

		for (unsigned i = 0; i < sizeof(junk); i++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			junk[i] = (uint8_t)(x >> 56);
		}
		n = 1 + x % sizeof(junk);
		if (round % 4 >= 2) { /* a member talks nonsense: a plausible header first */
			raw_session(fd);
			junk[0] = (uint8_t)(16 + x % 200);
			junk[1] = junk[2] = junk[3] = 0;
			junk[4] = (uint8_t)((x >> 8) % 50);
			junk[5] = junk[6] = junk[7] = 0;
		}
		raw_send(fd, junk, n);
		close(fd);
	}
	rig_until(rig_stat(&rig).sessions == 1); /* the asker's */
	still_serves();
}

static void test_first_message_other_than_hello_is_refused(void **unused)
{
	int fd = raw_connect(rig.tcp);

	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_STAT;
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.type, XM_WIRE_ERROR);
	assert_true(closed(fd));
	close(fd);
	fd = raw_connect(rig.tcp);
	raw_session(fd);
	hello(XM_WIRE_ROLE_CONTROL);
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.type, XM_WIRE_ERROR);
	assert_true(closed(fd));
	close(fd);
}

static void test_unknown_message_is_refused_and_connection_stays(void **unused)
{
	int fd = raw_connect(rig.shm);

	raw_session(fd);
	for (uint16_t i = 0; i < 3; i++) {
		memset(bytes, 0, 24);
		bytes[0] = 24;
		bytes[4] = (uint8_t)(200 + i);
		raw_send(fd, bytes, 24);
		assert_int_equal(raw_recv_msg(fd), 1);
		assert_int_equal(msg.h.status, -ENOSYS);
	}
	close(fd);
}

static void test_keys_before_a_verbs_connection_are_eagain(void **unused)
{
	int fd = raw_connect(rig.tcp);

	raw_session(fd);
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_SLAB_KEYS;
	msg.u.slabs.region = 1;
	msg.u.slabs.count = 1;
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.status, -EAGAIN);
	assert_non_null(strstr(msg.u.error.text, "no verbs connection yet"));
	close(fd);
}

static void test_requests_in_one_packet_are_answered_in_order(void **unused)
{
	int fd = raw_connect(rig.tcp);
	static uint8_t many[16 * 100];

	raw_session(fd);
	for (uint32_t i = 0; i < 100; i++) {
		many[i * 16] = 16;
		many[i * 16 + 4] = XM_WIRE_PING;
		many[i * 16 + 8] = (uint8_t)i;
	}
	raw_send(fd, many, sizeof(many));
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(raw_recv_msg(fd), 1);
		assert_int_equal(msg.h.seq, i);
		assert_int_equal(msg.h.status, 0);
	}
	close(fd);
}

static void test_sessions_are_listed_oldest_first(void **unused)
{
	int fd[3];

	rig_until(rig_stat(&rig).sessions == 1);
	for (int i = 0; i < 3; i++) {
		fd[i] = raw_connect(rig.shm);
		hello(XM_WIRE_ROLE_CONTROL);
		snprintf(msg.u.hello.name, sizeof(msg.u.hello.name), "client-%d", i);
		raw_send_msg(fd[i]);
		assert_int_equal(raw_recv_msg(fd[i]), 1);
	}
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_STAT;
	msg.u.stat.want_sessions = 1;
	raw_send_msg(fd[1]);
	assert_int_equal(raw_recv_msg(fd[1]), 1);
	assert_true(msg.u.stat_reply.count >= 3);
	assert_int_equal(msg.u.stat_reply.more, 0);
	for (uint32_t i = 0; i < 3; i++) {
		char want[16];

		snprintf(want, sizeof(want), "client-%u", i);
		assert_string_equal(msg.u.stat_reply.session[msg.u.stat_reply.count - 3 + i].name, want);
		close(fd[i]);
	}
}

static void test_region_metadata_and_list(void **unused)
{
	int fd = raw_connect(rig.tcp);
	uint64_t first;

	raw_session(fd);
	for (unsigned i = 0; i < 40; i++) {
		memset(&msg, 0, sizeof(msg));
		msg.h.type = XM_WIRE_REGION_CREATE;
		msg.u.create.size_bytes = 1;
		msg.u.create.nonce = i / 2 + 1; /* each one is asked for twice */
		raw_send_msg(fd);
		assert_int_equal(raw_recv_msg(fd), 1);
		assert_int_equal(msg.h.status, 0);
		assert_int_equal(msg.u.region.slabs, 1);
		assert_true(msg.u.region.created_ns > 0);
		assert_true(msg.u.region.owner_session > 0);
	}
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_REGION_LIST;
	raw_send_msg(fd);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.u.list.count, 20);
	assert_int_equal(msg.u.list.more, 0);
	first = msg.u.list.region[0].id;
	assert_true(msg.u.list.region[19].id > first);
	assert_int_equal(rig_stat(&rig).regions, 20);
	close(fd);
}

static void test_data_nonsense_ends_only_that_connection(void **unused)
{
	static const struct xm_wire_request bad[] = {
		{ .op = 0, .len = 8 },
		{ .op = 9, .len = 8 },
		{ .op = XM_WIRE_READ, .len = 0 },
		{ .op = XM_WIRE_CAS, .len = 8 },
		{ .op = XM_WIRE_READ, .len = XM_LINK_OP_MAX + 1 },
		{ .op = XM_WIRE_WRITE, .len = UINT32_MAX },
		{ .op = XM_WIRE_READ, .flags = 1, .len = 8 },
	};
	int control = raw_connect(rig.tcp);
	struct xm_wire_hello_reply me = raw_session(control);

	for (unsigned i = 0; i < XM_ARRAY_SIZE(bad); i++) {
		int fd = raw_data(rig.tcp, &me);
		uint8_t request[XM_WIRE_REQUEST];

		xm_wire_put_request(request, &bad[i]);
		raw_send(fd, request, sizeof(request));
		assert_true(closed(fd));
		close(fd);
	}
	rig_until(rig_stat(&rig).data_connections == 0);
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_PING;
	raw_send_msg(control);
	assert_int_equal(raw_recv_msg(control), 1);
	close(control);
}

/* The process of the control connection `me` belongs to says hello for data, and goes on before that was answered. */
static void test_data_hello_with_bytes_behind_it_then_counts_for_nothing(void **unused)
{
	struct xm_wire_hello_reply me;
	int control = raw_connect(rig.tcp), fd;

	me = raw_session(control);
	for (unsigned i = 0; i <= XM_SESSION_DATA_MAX; i++) {
		int len;

		fd = raw_connect(rig.tcp);
		hello(XM_WIRE_ROLE_DATA);
		msg.u.hello.session = me.session;
		memcpy(msg.u.hello.token, me.token, sizeof(msg.u.hello.token));
		len = xm_wire_encode(&msg, bytes, sizeof(bytes) - 1);
		bytes[len] = 0;
		raw_send(fd, bytes, (size_t)len + 1);
		assert_true(closed(fd));
		close(fd);
	}
	close(raw_data(rig.tcp, &me));
	close(control);
}

/* All of the appliance's memory in one region, made and freed: the status. */
static int take_everything(void)
{
	struct xm_peer *p = rig_peer(rig.tcp);
	struct xm_region_info r;
	int ret = xm_peer_region_create(p, rig_defaults().memory_bytes, NULL, 0, &r);

	xm_peer_close(p);
	return ret;
}

static void test_reader_that_does_not_read_is_not_served_without_bound(void **unused)
{
	int control = raw_connect(rig.tcp), fd;
	struct xm_wire_hello_reply me = raw_session(control);
	struct xm_wire_request r = { .op = XM_WIRE_READ, .len = XM_LINK_OP_MAX };
	uint8_t request[XM_WIRE_REQUEST];
	unsigned sent = 0;

	rig_until(rig_stat(&rig).slabs_used == 0); /* sessions of earlier tests end with their lease */
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_REGION_CREATE;
	msg.u.create.size_bytes = 2 * RIG_SLAB;
	raw_send_msg(control);
	assert_int_equal(raw_recv_msg(control), 1);
	r.region = msg.u.region.id;
	fd = raw_data(rig.tcp, &me);
	xm_wire_put_request(request, &r);
	while (sent < 100000 && send(fd, request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		sent++;
	/* the region goes while its slabs are on their way to a peer that does not read */
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_REGION_FREE;
	msg.u.op.region = r.region;
	raw_send_msg(control);
	assert_int_equal(raw_recv_msg(control), 1);
	assert_int_equal(msg.h.status, 0);
	assert_true(rig_stat(&rig).reads < 2000);
	/* what it still holds is not lent to somebody else as well */
	assert_int_equal(rig_stat(&rig).slabs_used, 1);
	assert_int_equal(take_everything(), -ENOMEM);
	close(fd);
	close(control);
	rig_until(rig_stat(&rig).data_connections == 0);
	rig_until(rig_stat(&rig).slabs_used == 0);
	assert_int_equal(take_everything(), 0);
	still_serves();
}

static void test_silent_and_slow_connections_are_closed(void **unused)
{
	struct rig_options o = rig_defaults();
	int silent, half, member;
	struct rig own;

	o.hello_ns = 200000000;
	o.stall_ns = 200000000;
	rig_start(&own, &o);
	silent = raw_connect(own.tcp);
	half = raw_connect(own.shm);
	member = raw_connect(own.tcp);
	raw_send(half, "\x80", 1);
	raw_session(member);
	raw_send(member, "\x80\0\0\0", 4);
	assert_true(closed(silent));
	assert_true(closed(half));
	assert_true(closed(member));
	close(silent);
	close(half);
	close(member);
	rig_kill(&own);
}

static void test_flood_of_connections_leaves_members_alone(void **unused)
{
	struct rig_options o = rig_defaults();
	struct xm_peer *member;
	struct xm_appliance_stat st;
	struct rig own;
	int fd[400];

	o.connections = 100;
	o.strangers = 20;
	rig_start(&own, &o);
	member = rig_peer(own.tcp);
	for (int i = 0; i < 400; i++)
		fd[i] = raw_connect(i % 2 ? own.shm : own.tcp);
	assert_int_equal(xm_peer_appliance_stat(member, &st), 0);
	assert_true(st.connections <= 21);
	xm_peer_close(rig_peer(own.shm)); /* there is room for one more */
	for (int i = 0; i < 400; i++)
		close(fd[i]);
	assert_int_equal(xm_peer_appliance_stat(member, &st), 0);
	xm_peer_close(member);
	rig_kill(&own);
}

static void test_other_user_is_refused_unless_it_has_the_token(void **unused)
{
	struct xm_peer_config cfg = { .uri = rig.shm };
	struct xm_peer_info info;
	struct xm_peer *p;
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	p = rig_peer(rig.shm);
	xm_peer_info(p, &info);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct xm_peer *q;
		char why[XM_WHY_MAX] = "";

		if (setresuid(65534, 65534, 65534) < 0)
			_exit(1);
		if (xm_peer_open(&cfg, &q, why) != -EACCES || !strstr(why, "user 65534"))
			_exit(2);
		cfg.session = info.session;
		_exit(xm_peer_open(&cfg, &q, why) == 0 ? 42 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 42);
	xm_peer_close(p);
}

/* ---- sockets ------------------------------------------------------------------------------------------- */

static void test_socket_file_is_private_and_replaced_only_when_stale(void **unused)
{
	char dir[] = "/tmp/xmem-test-XXXXXX", path[80], uri[100], why[XM_WHY_MAX];
	struct xm_listener l, m;
	struct stat st;
	int fd;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(uri, sizeof(uri), "shm:%s", path);
	assert_int_equal(xm_listen(uri, &l, why), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(xm_listen(uri, &m, why), -EADDRINUSE);
	assert_non_null(strstr(why, path));
	close(l.fd); /* as if killed: the file stays */
	l.fd = -1;
	assert_int_equal(xm_listen(uri, &m, why), 0);
	xm_unlisten(&l); /* not ours any more */
	assert_int_equal(stat(path, &st), 0);
	xm_unlisten(&m);
	assert_int_equal(stat(path, &st), -1);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(xm_listen(uri, &m, why), -EADDRINUSE); /* no socket at all: somebody's file */
	assert_int_equal(stat(path, &st), 0);
	close(fd);
	unlink(path);
	rmdir(dir);
	assert_int_equal(xm_listen("shm:/nonexistent/dir/sock", &m, why), -ENOENT);
	assert_int_equal(xm_listen("smoke:signals", &m, why), -EINVAL);
}

/* ---- pool ---------------------------------------------------------------------------------------------- */

static struct xm_pool_stat pool_stat(struct xm_pool *p)
{
	struct xm_pool_stat st;

	xm_pool_stat(p, &st);
	return st;
}

static void test_pool_promises_no_more_than_it_has(void **unused)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	struct xm_pool p;

	assert_int_equal(xm_pool_init(&p, &kind, 10 * RIG_SLAB + 5, 0), 0);
	assert_int_equal(xm_pool_promise(&p, 11), -ENOMEM);
	assert_int_equal(xm_pool_promise(&p, UINT64_MAX), -ENOMEM);
	assert_int_equal(xm_pool_promise(&p, 7), 0);
	assert_int_equal(xm_pool_promise(&p, 4), -ENOMEM);
	assert_int_equal(pool_stat(&p).free_bytes, 3 * RIG_SLAB);
	assert_int_equal(pool_stat(&p).backed_slabs, 0);
	xm_pool_raise(&p, 12 * RIG_SLAB);
	assert_int_equal(xm_pool_promise(&p, 5), 0);
	xm_pool_raise(&p, RIG_SLAB); /* never less */
	assert_int_equal(pool_stat(&p).total_bytes, 12 * RIG_SLAB);
	xm_pool_release(&p, 12);
	assert_int_equal(pool_stat(&p).free_bytes, 12 * RIG_SLAB);
	xm_pool_fini(&p);
}

static void test_pool_keeps_slabs_warm_and_takes_freed_ones_away(void **unused)
{
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	struct xm_slab *s[4];
	struct stat st;
	struct xm_pool p;
	uint8_t *other;
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from;

	assert_int_equal(xm_pool_init(&p, &kind, 4 * RIG_SLAB, 2), 0);
	rig_until(pool_stat(&p).warm_bytes == 2 * RIG_SLAB);
	assert_int_equal(xm_pool_promise(&p, 4), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(xm_pool_take(&p, NULL, true, &s[i]), 0);
	rig_until(pool_stat(&p).warm_bytes == 0);
	assert_int_equal(pool_stat(&p).backed_slabs, 4);
	assert_int_equal(fstat(s[0]->fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal((uint64_t)st.st_blocks * 512, RIG_SLAB); /* its pages are there */
	other = mmap(NULL, RIG_SLAB, PROT_READ | PROT_WRITE, MAP_SHARED, s[0]->fd, 0);
	assert_true(other != MAP_FAILED);
	other[0] = 9;
	from = (struct iovec){ other, 1 };
	assert_int_equal(process_vm_readv(getpid(), &to, 1, &from, 1, 0), 1);
	xm_slab_get(s[0]);
	xm_slab_put(&p, s[0], true);
	assert_int_equal(process_vm_readv(getpid(), &to, 1, &from, 1, 0), 1); /* still referenced */
	xm_slab_put(&p, s[0], true);
	assert_int_equal(process_vm_readv(getpid(), &to, 1, &from, 1, 0), -1); /* taken away */
	munmap(other, RIG_SLAB);
	for (int i = 1; i < 4; i++)
		xm_slab_put(&p, s[i], false);
	xm_pool_release(&p, 4);
	rig_until(pool_stat(&p).backed_slabs == 2 && pool_stat(&p).warm_bytes == 2 * RIG_SLAB);
	xm_pool_fini(&p);
}

/* ---- sessions ------------------------------------------------------------------------------------------- */

struct reaper {
	struct xm_appliance *a;
	int stop; /* atomic */
};

static void *reap_on_and_on(void *arg)
{
	struct reaper *r = arg;

	while (!xm_load(&r->stop))
		xm_session_reap(r->a);
	return NULL;
}

static void test_session_when_left_during_reap_then_keeps_its_lease(void **unused)
{
	static struct xm_appliance a;
	struct xm_slab_kind kind = { .bytes = RIG_SLAB, .numa = XM_NUMA_OFF };
	struct xm_wire_hello h = { .magic = XM_WIRE_MAGIC, .major = 1, .role = XM_WIRE_ROLE_CONTROL };
	struct xm_hello_context context = { .local = false };
	struct reaper r = { .a = &a };
	char text[XM_WIRE_TEXT];
	struct xm_session *s;
	pthread_t thread;

	assert_int_equal(xm_pool_init(&a.pool, &kind, 4 * RIG_SLAB, 0), 0);
	assert_int_equal(xm_appliance_init(&a, "a", 3600ull * 1000000000), 0);
	assert_int_equal(xm_session_enter(&a, &h, &context, &s, text), 0);
	h.session = s->id;
	memcpy(h.token, s->token, sizeof(h.token));
	assert_int_equal(pthread_create(&thread, NULL, reap_on_and_on, &r), 0);
	for (int i = 0; i < 100000; i++) {
		xm_session_leave(&a, s, &h.proc, false);
		assert_int_equal(xm_session_enter(&a, &h, &context, &s, text), 0);
	}
	xm_store(&r.stop, 1);
	pthread_join(thread, NULL);
	xm_appliance_fini(&a);
	xm_pool_fini(&a.pool);
}

static void test_huge_pages_that_are_missing_are_enomem(void **unused)
{
	struct xm_slab_kind kind = { .bytes = 1ull << 30, .huge_bytes = 1ull << 30, .numa = XM_NUMA_OFF };
	struct xm_slab *s = NULL;
	int ret = xm_slab_create(&kind, true, &s);

	assert_true(ret == -ENOMEM || ret == 0); /* 0 where somebody has set some aside */
	if (ret == 0)
		xm_slab_destroy(s);
}

static int start_rig(void **unused)
{
	struct rig_options o = rig_defaults();

	o.lease_ns = 300000000; /* raw tcp clients just close: their sessions end by the lease */
	rig_start(&rig, &o);
	return 0;
}

static int stop_rig(void **unused)
{
	rig_kill(&rig);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_other_major_is_refused_in_words),
		cmocka_unit_test(test_nonsense_is_answered_and_closed),
		cmocka_unit_test(test_random_bytes_never_harm),
		cmocka_unit_test(test_first_message_other_than_hello_is_refused),
		cmocka_unit_test(test_unknown_message_is_refused_and_connection_stays),
		cmocka_unit_test(test_keys_before_a_verbs_connection_are_eagain),
		cmocka_unit_test(test_requests_in_one_packet_are_answered_in_order),
		cmocka_unit_test(test_sessions_are_listed_oldest_first),
		cmocka_unit_test(test_region_metadata_and_list),
		cmocka_unit_test(test_data_nonsense_ends_only_that_connection),
		cmocka_unit_test(test_data_hello_with_bytes_behind_it_then_counts_for_nothing),
		cmocka_unit_test(test_reader_that_does_not_read_is_not_served_without_bound),
		cmocka_unit_test(test_silent_and_slow_connections_are_closed),
		cmocka_unit_test(test_flood_of_connections_leaves_members_alone),
		cmocka_unit_test(test_other_user_is_refused_unless_it_has_the_token),
		cmocka_unit_test(test_socket_file_is_private_and_replaced_only_when_stale),
		cmocka_unit_test(test_pool_promises_no_more_than_it_has),
		cmocka_unit_test(test_pool_keeps_slabs_warm_and_takes_freed_ones_away),
		cmocka_unit_test(test_session_when_left_during_reap_then_keeps_its_lease),
		cmocka_unit_test(test_huge_pages_that_are_missing_are_enomem),
	};

	xm_log_init("test_appliance", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(240);
	return cmocka_run_group_tests(tests, start_rig, stop_rig);
}
