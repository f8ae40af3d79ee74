/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_jobs.c - requests that take long: who waits for them (the same session's long ones, in line, and what
 * comes behind them on one connection) and who does not (everybody else, and the control thread); and what becomes of
 * connections, sessions and the appliance that end meanwhile.
 */
#include "tests/unit/jobs_rig.h"

#include <sys/stat.h>
#include <time.h>

/* ---- who waits, and who does not ------------------------------------------------------------------------ */

/* Everybody but who asked for it, at once. mine: another connection of the session. */
static void others_are_served(struct client *c, int mine, uint64_t spare)
{
	struct client b = enter(tcp.uri, 0);

	get(b.fd, XM_WIRE_PING, 0, 0);
	get(b.fd, XM_WIRE_STAT, 0, 0);
	get(b.fd, XM_WIRE_SLAB_KEYS, b.region, 1);
	get(b.fd, XM_WIRE_REGION_RESIZE, b.region, RIG_SLAB);
	get(b.fd, XM_WIRE_REGION_DROP, b.region, 0);
	get(b.fd, XM_WIRE_REGION_FREE, b.region, 0);
	get(other.fd, XM_WIRE_REGION_CREATE, 0, RIG_SLAB);
	get(other.fd, XM_WIRE_SLAB_MAP, msg.u.region.id, 0);
	get(mine, XM_WIRE_PING, 0, 0);
	get(mine, XM_WIRE_REGION_INFO, spare, 0);
	get(mine, XM_WIRE_REGION_LIST, 0, 0);
	get(attach(c, shm.uri, 0), XM_WIRE_STAT, 0, 0);
	hang_up(b.fd);
	assert_int_equal(locked(&inside), 1);
	assert_silent(c->fd);
}

static void test_long_request_when_held_then_everybody_else_is_served(void **unused)
{
	static const struct ask kinds[] = {
		{ XM_WIRE_SLAB_MAP, 1, 0, 1 },	    { XM_WIRE_SLAB_KEYS, 2, 0, 0 },
		{ XM_WIRE_REGION_RESIZE, 3, 0, 0 }, { XM_WIRE_REGION_DROP, 4, 0, 0 },
		{ XM_WIRE_REGION_FREE, 5, 0, 0 },   { XM_WIRE_SLAB_KEYS, 6, 0, 2 },
	};

	for (unsigned i = 0; i < XM_ARRAY_SIZE(kinds); i++) {
		bool local = kinds[i].type == XM_WIRE_SLAB_MAP || i % 2;
		struct client c = enter(local ? shm.uri : tcp.uri, 0);
		int mine = attach(&c, tcp.uri, 0);
		struct ask q = kinds[i];
		uint64_t spare = create(mine);

		q.region = c.region;
		ask_held(c.fd, q);
		others_are_served(&c, mine, spare);
		open_for(1);
		assert_answer(c.fd, q.type, q.seq | HOLD);
		hang_up(c.fd);
		hang_up(mine);
	}
}

static void test_long_requests_of_one_session_then_are_carried_out_in_the_order_they_were_asked(void **unused)
{
	static const uint32_t first[] = { 1, 4, 6, 7 }, second[] = { 2, 5 };
	struct client c = enter(shm.uri, 0);
	int fd[] = { c.fd, attach(&c, shm.uri, 0), attach(&c, shm.uri, 0) };

	for (unsigned i = 0; i < XM_ARRAY_SIZE(first); i++)
		add(keys(&c, HOLD | first[i]));
	send_batch(fd[0]);
	barrier();
	for (unsigned i = 0; i < XM_ARRAY_SIZE(second); i++)
		add(keys(&c, HOLD | second[i]));
	send_batch(fd[1]);
	barrier();
	ask(fd[2], keys(&c, HOLD | 3));
	for (unsigned i = 1; i <= 7; i++) {
		barrier(); /* who has just been answered stands in line again, if it has asked for more */
		rig_until(locked(&begun) == i && locked(&inside) == 1);
		open_for(1);
	}
	for (unsigned i = 0; i < XM_ARRAY_SIZE(first); i++)
		assert_answer(fd[0], XM_WIRE_SLAB_KEYS, HOLD | first[i]);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(second); i++)
		assert_answer(fd[1], XM_WIRE_SLAB_KEYS, HOLD | second[i]);
	assert_answer(fd[2], XM_WIRE_SLAB_KEYS, HOLD | 3);
	assert_order("1234567");
}

/* One that is answered at once takes nobody's place in line, and one that waits for a quick one's sake is not overtaken. */
static void test_waiting_request_when_it_is_let_in_then_the_rest_of_its_connection_goes_on(void **unused)
{
	struct client c = enter(shm.uri, 0);
	int fd = attach(&c, shm.uri, 0), third = attach(&c, shm.uri, 0);

	ask_held(c.fd, keys(&c, 1));
	add((struct ask){ XM_WIRE_PING, 20, 0, 0 });
	add((struct ask){ XM_WIRE_REGION_FREE, 2, 123456, 0 }); /* refused, but in its turn */
	add((struct ask){ XM_WIRE_PING, 21, 0, 0 });
	add((struct ask){ XM_WIRE_REGION_RESIZE, 3, c.region, RIG_SLAB });
	add((struct ask){ XM_WIRE_REGION_INFO, 22, c.region, 0 });
	send_batch(fd);
	assert_answer(fd, XM_WIRE_PING, 20);
	ask(third, (struct ask){ XM_WIRE_REGION_DROP, 4, c.region, 0 });
	barrier();
	assert_silent(fd);
	assert_silent(third);
	assert_order("1");
	open_for(1);
	assert_answer(c.fd, XM_WIRE_SLAB_KEYS, HOLD | 1);
	assert_int_equal(raw_recv_msg(fd), 1);
	assert_int_equal(msg.h.seq, 2);
	assert_int_equal(msg.h.status, -ENOENT);
	assert_answer(fd, XM_WIRE_PING, 21);
	assert_answer(fd, XM_WIRE_REGION_RESIZE, 3);
	assert_answer(fd, XM_WIRE_REGION_INFO, 22);
	assert_int_equal(msg.u.region.slabs, 1);
	assert_answer(third, XM_WIRE_REGION_DROP, 4);
}

static void pipeline(const char *uri, bool at_once)
{
	struct client c = enter(uri, 0);

	if (!at_once)
		ask_held(c.fd, (struct ask){ XM_WIRE_REGION_RESIZE, 1, c.region, 0 });
	else
		add((struct ask){ XM_WIRE_REGION_RESIZE, HOLD | 1, c.region, 0 });
	add((struct ask){ XM_WIRE_REGION_INFO, 2, c.region, 0 });
	add((struct ask){ XM_WIRE_PING, 3, 0, 0 });
	add((struct ask){ XM_WIRE_REGION_RESIZE, 4, c.region, 2 * RIG_SLAB });
	add(keys(&c, 5));
	add((struct ask){ XM_WIRE_REGION_INFO, 6, c.region, 0 });
	add((struct ask){ XM_WIRE_STAT, 7, 0, 0 });
	send_batch(c.fd);
	rig_until(locked(&inside) == 1);
	barrier();
	assert_silent(c.fd);
	open_for(1);
	assert_answer(c.fd, XM_WIRE_REGION_RESIZE, HOLD | 1);
	assert_answer(c.fd, XM_WIRE_REGION_INFO, 2);
	assert_int_equal(msg.u.region.slabs, 0);
	assert_answer(c.fd, XM_WIRE_PING, 3);
	assert_answer(c.fd, XM_WIRE_REGION_RESIZE, 4);
	assert_answer(c.fd, XM_WIRE_SLAB_KEYS, 5);
	assert_answer(c.fd, XM_WIRE_REGION_INFO, 6);
	assert_int_equal(msg.u.region.slabs, 2);
	assert_answer(c.fd, XM_WIRE_STAT, 7);
	assert_order("15"); /* what grows has no slabs to wait for */
	hang_up(c.fd);
}

static void test_requests_pipelined_on_one_connection_then_are_answered_in_order(void **unused)
{
	for (unsigned i = 0; i < 4; i++)
		pipeline(i & 1 ? tcp.uri : shm.uri, i & 2);
}

static void test_more_sessions_than_workers_then_the_excess_waits_and_nobody_else(void **unused)
{
	struct client c[XM_JOB_WORKERS + 3];
	int mine;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(c); i++)
		c[i] = enter(i % 2 ? tcp.uri : shm.uri, 0);
	mine = attach(&c[XM_JOB_WORKERS + 1], tcp.uri, 0);
	for (unsigned i = 0; i < XM_JOB_WORKERS; i++)
		ask_held(c[i].fd, keys(&c[i], i));
	for (unsigned i = XM_JOB_WORKERS; i < XM_ARRAY_SIZE(c); i++)
		ask(c[i].fd, keys(&c[i], i));
	barrier();
	get(mine, XM_WIRE_REGION_LIST, 0, 0);
	get(other.fd, XM_WIRE_REGION_CREATE, 0, RIG_SLAB);
	get(attach(&c[0], tcp.uri, 0), XM_WIRE_STAT, 0, 0);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(c); i++)
		assert_silent(c[i].fd);
	assert_int_equal(locked(&begun), XM_JOB_WORKERS);
	open_for(1); /* one of them has time for all who wait */
	for (unsigned i = XM_JOB_WORKERS; i < XM_ARRAY_SIZE(c); i++)
		assert_answer(c[i].fd, XM_WIRE_SLAB_KEYS, i);
	assert_int_equal(locked(&inside), XM_JOB_WORKERS - 1);
	open_for(ALWAYS);
	for (unsigned i = 0; i < XM_JOB_WORKERS; i++)
		assert_answer(c[i].fd, XM_WIRE_SLAB_KEYS, HOLD | i);
}

static void test_threads_when_none_can_be_made_then_requests_are_answered_all_the_same(void **unused)
{
	struct client c;

	may_be_on_control = true;
	xm_store(&no_threads, 1);
	c = enter(shm.uri, 0);
	for (uint32_t i = 1; i < 5; i++)
		add(keys(&c, i));
	send_batch(c.fd);
	for (uint32_t i = 1; i < 5; i++)
		assert_answer(c.fd, XM_WIRE_SLAB_KEYS, i);
	assert_int_equal(locked(&on_control), locked(&begun) + 1);
	xm_store(&no_threads, 0);
	ask_held(c.fd, keys(&c, 5));
	get(other.fd, XM_WIRE_PING, 0, 0);
	open_for(1);
	assert_answer(c.fd, XM_WIRE_SLAB_KEYS, HOLD | 5);
}

static void test_memory_when_there_is_none_for_a_job_then_requests_are_answered_in_their_turn(void **unused)
{
	struct client c = enter(shm.uri, 0);
	int second = attach(&c, shm.uri, 0);

	may_be_on_control = true;
	ask_held(c.fd, keys(&c, 1));
	xm_store(&no_memory, 1);
	add((struct ask){ XM_WIRE_REGION_DROP, 2, c.region, 0 });
	add((struct ask){ XM_WIRE_SLAB_KEYS, 3, c.region, 1 });
	add((struct ask){ XM_WIRE_REGION_FREE, 4, c.region, 0 });
	send_batch(second);
	barrier();
	assert_silent(second);
	assert_order("1");
	open_for(1);
	assert_answer(second, XM_WIRE_REGION_DROP, 2);
	assert_answer(second, XM_WIRE_SLAB_KEYS, 3);
	assert_answer(second, XM_WIRE_REGION_FREE, 4);
	assert_order("1234");
	assert_int_equal(locked(&on_control), 3);
}

/* ---- connections that end meanwhile ---------------------------------------------------------------------- */

static void reset(int fd)
{
	struct linger now = { .l_onoff = 1 };

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	hang_up(fd);
}

static void test_connection_closed_while_its_request_is_held_then_its_session_ends_afterwards(void **unused)
{
	for (unsigned i = 0; i < 8; i++) {
		struct client c = enter(i & 1 ? tcp.uri : shm.uri, LINK);

		add((struct ask){ XM_WIRE_REGION_RESIZE, HOLD | 1, c.region, 0 });
		if (i & 2) /* and more, which may be carried out or not */
			add((struct ask){ XM_WIRE_REGION_FREE, 2, c.region, 0 });
		send_batch(c.fd);
		rig_until(locked(&inside) == 1);
		if (i & 4)
			reset(c.fd);
		else
			hang_up(c.fd);
		barrier();
		assert_true(connections_of(&c) >= 0); /* it is in use */
		open_for(1);
		rig_until(connections_of(&c) < 0);
		rig_until(promised() == 0);
		assert_int_equal(xm_load_relaxed(&a.connections), 1);
		assert_int_equal(connections_of(&other), 1);
	}
}

static void test_connection_half_closed_while_its_request_is_held_then_is_answered(void **unused)
{
	for (unsigned i = 0; i < 2; i++) {
		struct client c = enter(i & 1 ? tcp.uri : shm.uri, LINK);

		ask_held(c.fd, keys(&c, 1));
		shutdown(c.fd, SHUT_WR);
		barrier();
		open_for(1);
		assert_answer(c.fd, XM_WIRE_SLAB_KEYS, HOLD | 1);
		assert_true(closed(c.fd));
		rig_until(connections_of(&c) < 0);
	}
}

static void test_bye_behind_a_held_request_then_ends_the_session_after_it(void **unused)
{
	xm_store(&a.lease_ns, 60000 * MS);
	for (unsigned i = 0; i < 4; i++) {
		struct client c = enter(i & 1 ? tcp.uri : shm.uri, LINK);

		add((struct ask){ XM_WIRE_REGION_FREE, HOLD | 1, c.region, 0 });
		add((struct ask){ XM_WIRE_BYE, 2, 0, 0 });
		send_batch(c.fd);
		rig_until(locked(&inside) == 1);
		if (i & 2)
			hang_up(c.fd);
		barrier();
		assert_true(connections_of(&c) >= 0);
		open_for(1);
		if (!(i & 2)) {
			assert_answer(c.fd, XM_WIRE_REGION_FREE, HOLD | 1);
			assert_answer(c.fd, XM_WIRE_BYE, 2);
			hang_up(c.fd);
		}
		rig_until(connections_of(&c) < 0);
		assert_int_equal(promised(), 0);
	}
}

static void test_connection_replaced_while_its_request_is_held_then_the_next_one_is_served(void **unused)
{
	for (unsigned i = 0; i < 2; i++) {
		const char *uri = i & 1 ? tcp.uri : shm.uri;
		struct client c = enter(uri, LINK);
		int fd[3];

		/* its answer, and the slab in it, are nobody's in the end */
		add(i & 1 ? keys(&c, HOLD | 1) : (struct ask){ XM_WIRE_SLAB_MAP, HOLD | 1, c.region, 3 });
		add(keys(&c, 9)); /* its turn never comes */
		send_batch(c.fd);
		rig_until(locked(&inside) == 1);
		for (unsigned k = 0; k < XM_ARRAY_SIZE(fd); k++) {
			fd[k] = attach(&c, uri, LINK);
			assert_true(closed(k ? fd[k - 1] : c.fd));
			get(fd[k], XM_WIRE_REGION_INFO, c.region, 0);
			ask(fd[k], (struct ask){ XM_WIRE_REGION_DROP, 2 + k, c.region, 0 });
		}
		barrier();
		assert_silent(fd[2]);
		assert_order("1");
		assert_int_equal(connections_of(&c), 1);
		assert_int_equal(xm_load_relaxed(&a.connections), 2);
		open_for(1);
		assert_answer(fd[2], XM_WIRE_REGION_DROP, 4);
		assert_order("14");
		assert_int_equal(connections_of(&c), 1);
		get(fd[2], XM_WIRE_PING, 0, 0);
		hang_up(fd[2]);
		rig_until(connections_of(&c) < 0);
		rig_until(promised() == 0);
	}
}

static void test_session_whose_last_connection_is_gone_while_a_fenced_one_works_then_lives_until_that_ends(
	void **unused)
{
	struct client c = enter(tcp.uri, LINK);
	int fd;

	ask_held(c.fd, (struct ask){ XM_WIRE_REGION_RESIZE, 1, c.region, 0 });
	fd = attach(&c, tcp.uri, LINK);
	get(fd, XM_WIRE_BYE, 0, 0);
	hang_up(fd);
	rig_until(xm_load_relaxed(&a.connections) == 1); /* none of its own */
	for (unsigned i = 0; i < 3; i++) {
		usleep(2000); /* more than its lease */
		barrier();
	}
	assert_true(connections_of(&c) >= 0);
	fd = attach(&c, tcp.uri, LINK + 1); /* and can be found */
	hang_up(fd);
	open_for(1);
	rig_until(connections_of(&c) < 0);
	rig_until(promised() == 0);
}

static void *destroy_ctl(void *arg)
{
	xm_ctl_destroy(ctl);
	ctl = NULL;
	xm_store((int *)arg, 1);
	return NULL;
}

static void test_end_while_requests_are_under_way_then_waits_for_them_and_for_nobody_in_line(void **unused)
{
	struct client c = enter(shm.uri, LINK), d = enter(tcp.uri, LINK);
	int second = attach(&c, shm.uri, 0), done = 0;
	pthread_t destroyer;

	add((struct ask){ XM_WIRE_REGION_FREE, HOLD | 1, c.region, 0 });
	add((struct ask){ XM_WIRE_PING, 2, 0, 0 });
	send_batch(c.fd);
	rig_until(locked(&inside) == 1);
	ask(second, (struct ask){ XM_WIRE_REGION_DROP, 3, c.region, 0 });
	ask_held(d.fd, keys(&d, 4));
	get(attach(&d, tcp.uri, LINK), XM_WIRE_PING, 0, 0);
	barrier();
	end_control();
	assert_int_equal(pthread_create(&destroyer, NULL, destroy_ctl, &done), 0);
	assert_true(closed(c.fd) && closed(second) && closed(d.fd) && closed(other.fd));
	usleep(20000); /* nothing is to happen */
	assert_int_equal(locked(&inside), 2);
	assert_false(xm_load(&done));
	open_for(1);
	rig_until(locked(&inside) == 1);
	assert_false(xm_load(&done));
	open_for(1);
	pthread_join(destroyer, NULL);
	assert_order("14");
	assert_int_equal(connections_of(&c), 0);
	assert_int_equal(connections_of(&d), 0);
}

/* ---- time ------------------------------------------------------------------------------------------------ */

static void test_peers_that_have_hung_up_while_their_requests_wait_then_take_no_time(void **unused)
{
	struct client c[6];
	uint64_t before, spent, since;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(c); i++) {
		int second;

		c[i] = enter(i & 1 ? tcp.uri : shm.uri, LINK);
		second = attach(&c[i], i & 1 ? tcp.uri : shm.uri, 0);
		ask_held(c[i].fd, keys(&c[i], 1));
		ask(second, keys(&c[i], 2)); /* waits in line */
		barrier();
		if (i & 2) /* they leave something that is not read */
			get(other.fd, XM_WIRE_PING, 0, 0), ask(second, keys(&c[i], 3)),
				ask(c[i].fd, keys(&c[i], 4));
		if (i & 4)
			reset(second), reset(c[i].fd);
		else
			hang_up(second), hang_up(c[i].fd);
	}
	barrier();
	before = xm_load(&rounds);
	spent = rig_cpu_ns(thread);
	since = xm_now_ns();
	usleep(300000);
	assert_in_range(xm_load(&rounds) - before, 0,
			4 + (xm_now_ns() - since) / (100 * MS)); /* one each 250 ms */
	assert_in_range(rig_cpu_ns(thread) - spent, 0, 50 * MS);
	open_for(ALWAYS);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(c); i++)
		rig_until(connections_of(&c[i]) < 0);
}

/* A connection that is half way through a message and waits for nobody is given up after it: until then none of the
 * others was. */
static void let_one_stall(void)
{
	int fd = dial(shm.uri);
	struct xm_wire_hello_reply me = { 0 };

	assert_int_equal(introduce(fd, &me, 0), 0);
	raw_send(fd, "\x10\0\0\0\x02\0", 6);
	assert_true(closed(fd));
	hang_up(fd);
}

static void test_peer_half_way_through_a_message_while_its_request_is_held_then_is_not_stalled(void **unused)
{
	static const uint8_t rest[10];
	struct client c = enter(shm.uri, 0);
	int second = attach(&c, tcp.uri, 0);

	add(keys(&c, HOLD | 1));
	memcpy(batch + batch_len, "\x10\0\0\0\x02\0", 6); /* half a ping */
	batch_len += 6;
	send_batch(c.fd);
	rig_until(locked(&inside) == 1);
	add(keys(&c, 2));
	memcpy(batch + batch_len, "\x10\0\0\0\x02\0", 6);
	batch_len += 6;
	send_batch(second);
	barrier();
	let_one_stall();
	let_one_stall();
	raw_send(c.fd, rest, sizeof(rest));
	raw_send(second, rest, sizeof(rest));
	open_for(1);
	assert_answer(c.fd, XM_WIRE_SLAB_KEYS, HOLD | 1);
	assert_answer(c.fd, XM_WIRE_PING, 0);
	assert_answer(second, XM_WIRE_SLAB_KEYS, 2);
	assert_answer(second, XM_WIRE_PING, 0);
}

/* ---- what is handed out ------------------------------------------------------------------------------------ */

/* The reply to SLAB_MAP, and its descriptors. How many. */
static unsigned recv_objects(int fd, int *out)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(XM_WIRE_FDS * sizeof(int))];
	} control;
	struct iovec iov = { bytes, XM_WIRE_HEADER };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	struct xm_wire_header h;
	struct cmsghdr *at;

	assert_int_equal(recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_WAITALL), XM_WIRE_HEADER);
	assert_int_equal(xm_wire_decode_header(bytes, XM_WIRE_HEADER, &h), 0);
	raw_recv(fd, bytes + XM_WIRE_HEADER, h.length - XM_WIRE_HEADER);
	assert_int_equal(xm_wire_decode(bytes, h.length, &msg), 0);
	at = CMSG_FIRSTHDR(&m);
	if (!at)
		return 0;
	memcpy(out, CMSG_DATA(at), at->cmsg_len - CMSG_LEN(0));
	return (unsigned)((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
}

static void test_slabs_mapped_by_a_held_request_then_come_with_descriptors_that_work(void **unused)
{
	struct client c = enter(shm.uri, 0);
	struct stat st[2];
	int fd[XM_WIRE_FDS];
	uint8_t *p;

	ask_held(c.fd, (struct ask){ XM_WIRE_SLAB_MAP, 1, c.region, 2 });
	get(other.fd, XM_WIRE_PING, 0, 0);
	open_for(1);
	assert_int_equal(recv_objects(c.fd, fd), 1);
	assert_int_equal(msg.h.status, 0);
	assert_int_equal(msg.u.slabs.first, 2);
	p = mmap(NULL, RIG_SLAB, PROT_READ | PROT_WRITE, MAP_SHARED, fd[0], 0);
	assert_true(p != MAP_FAILED);
	assert_true(p[0] == 0 && memcmp(p, p + 1, RIG_SLAB - 1) == 0);
	memset(p, 7, RIG_SLAB);
	ask(c.fd, (struct ask){ XM_WIRE_SLAB_MAP, 2, c.region, 2 });
	assert_int_equal(recv_objects(c.fd, fd + 1), 1);
	assert_int_equal(fstat(fd[0], &st[0]), 0);
	assert_int_equal(fstat(fd[1], &st[1]), 0);
	assert_int_equal(st[0].st_ino, st[1].st_ino);
	assert_int_equal(pread(fd[1], bytes, 1, RIG_SLAB - 1), 1);
	assert_int_equal(bytes[0], 7);
	munmap(p, RIG_SLAB);
	get(c.fd, XM_WIRE_REGION_FREE, c.region, 0);
	assert_int_equal(fstat(fd[0], &st[0]), 0); /* gone before that was answered */
	assert_int_equal(st[0].st_size, 0);
	close(fd[0]);
	close(fd[1]);
}

/* ---- anything --------------------------------------------------------------------------------------------- */

static uint32_t draw(uint32_t *seed, uint32_t below)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(*seed >> 8) * below >> 24);
}

struct crowd {
	struct client c;
	int fd[3]; /* -1: none */
};

/* One more connection of the session, which may be over by now. */
static int join(struct crowd *m, uint32_t *seed, unsigned link)
{
	const char *uri = draw(seed, 2) ? tcp.uri : shm.uri;
	int fd = dial(uri);

	if (introduce(fd, &m->c.me, link) == 0 && m->c.region)
		return fd;
	hang_up(fd);
	memset(&m->c, 0, sizeof(m->c));
	fd = dial(uri);
	assert_int_equal(introduce(fd, &m->c.me, link), 0);
	pthread_mutex_lock(&a.mutex);
	m->c.region = a.regions_ever + 1; /* if nobody else is faster */
	pthread_mutex_unlock(&a.mutex);
	ask(fd, (struct ask){ XM_WIRE_REGION_CREATE, 1, 0, SIZE * RIG_SLAB });
	return fd;
}

static void do_anything(struct crowd *m, uint32_t *seed)
{
	static const uint16_t types[] = { XM_WIRE_SLAB_MAP,    XM_WIRE_SLAB_MAP,    XM_WIRE_SLAB_KEYS,
					  XM_WIRE_SLAB_KEYS,   XM_WIRE_REGION_DROP, XM_WIRE_REGION_RESIZE,
					  XM_WIRE_REGION_FREE, XM_WIRE_REGION_INFO, XM_WIRE_REGION_CREATE,
					  XM_WIRE_REGION_LIST, XM_WIRE_PING,	    XM_WIRE_STAT };
	unsigned k = draw(seed, XM_ARRAY_SIZE(m->fd)), what = draw(seed, 100);

	if (m->fd[k] < 0 || what < 3) { /* the old one may be replaced in the middle of a request */
		int old = m->fd[k];

		m->fd[k] = join(m, seed, k + 1);
		if (old >= 0)
			hang_up(old);
		return;
	}
	while (recv(m->fd[k], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	for (unsigned n = draw(seed, 4); n; n--) {
		uint16_t type = types[draw(seed, XM_ARRAY_SIZE(types))];
		bool sized = type == XM_WIRE_REGION_CREATE || type == XM_WIRE_REGION_RESIZE;

		add((struct ask){ type, 1, m->c.region, draw(seed, SIZE) * (sized ? RIG_SLAB : 1) });
	}
	if (what < 8)
		add((struct ask){ XM_WIRE_BYE, 1, 0, 0 });
	send_batch(m->fd[k]);
	if (what < 14) {
		hang_up(m->fd[k]);
		m->fd[k] = -1;
	}
}

static void test_anything_by_many_at_once_then_all_comes_back(void **unused)
{
	struct crowd m[6];
	uint32_t seed = (uint32_t)xm_now_ns();

	printf("seed %u\n", seed);
	memset(m, 0, sizeof(m));
	for (unsigned i = 0; i < XM_ARRAY_SIZE(m); i++)
		for (unsigned k = 0; k < XM_ARRAY_SIZE(m[i].fd); k++)
			m[i].fd[k] = -1;
	xm_store(&slow, 1);
	for (unsigned i = 0; i < 1500; i++)
		do_anything(&m[draw(&seed, XM_ARRAY_SIZE(m))], &seed);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(m); i++)
		for (unsigned k = 0; k < XM_ARRAY_SIZE(m[i].fd); k++)
			if (m[i].fd[k] >= 0)
				hang_up(m[i].fd[k]);
	rig_until(promised() == 0);
	rig_until(xm_load_relaxed(&a.connections) == 1);
	rig_until((get(other.fd, XM_WIRE_STAT, 0, 0), msg.u.stat_reply.sessions == 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_long_request_when_held_then_everybody_else_is_served),
		TEST(test_long_requests_of_one_session_then_are_carried_out_in_the_order_they_were_asked),
		TEST(test_waiting_request_when_it_is_let_in_then_the_rest_of_its_connection_goes_on),
		TEST(test_requests_pipelined_on_one_connection_then_are_answered_in_order),
		TEST(test_more_sessions_than_workers_then_the_excess_waits_and_nobody_else),
		TEST(test_threads_when_none_can_be_made_then_requests_are_answered_all_the_same),
		TEST(test_memory_when_there_is_none_for_a_job_then_requests_are_answered_in_their_turn),
		TEST(test_connection_closed_while_its_request_is_held_then_its_session_ends_afterwards),
		TEST(test_connection_half_closed_while_its_request_is_held_then_is_answered),
		TEST(test_bye_behind_a_held_request_then_ends_the_session_after_it),
		TEST(test_connection_replaced_while_its_request_is_held_then_the_next_one_is_served),
		TEST(test_session_whose_last_connection_is_gone_while_a_fenced_one_works_then_lives_until_that_ends),
		TEST(test_end_while_requests_are_under_way_then_waits_for_them_and_for_nobody_in_line),
		TEST(test_peers_that_have_hung_up_while_their_requests_wait_then_take_no_time),
		cmocka_unit_test_setup_teardown(
			test_peer_half_way_through_a_message_while_its_request_is_held_then_is_not_stalled,
			start_impatient, stop),
		TEST(test_slabs_mapped_by_a_held_request_then_come_with_descriptors_that_work),
		TEST(test_anything_by_many_at_once_then_all_comes_back),
	};

	xm_log_init("test_appliance_jobs", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(240);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
