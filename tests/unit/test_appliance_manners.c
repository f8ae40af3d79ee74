/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_manners.c - protection where it has to be, at the appliance: clients over shm and tcp that keep what
 * they had, use what was freed, is somebody else's or does not exist, and do not ask a library whether they may.
 * (Over verbs: tests/it/rdma_raw.c.)
 */
#include "tests/unit/raw_client.h"

#include <fcntl.h>
#include <sys/uio.h>

#define PAGE 4096u
#define POOL 64 /* slabs of the appliance, see rig_defaults() */

static struct rig rig;

struct client {
	int fd; /* control connection */
	struct xm_wire_hello_reply me;
};

static struct client enter(const char *uri)
{
	struct client c = { .fd = raw_connect(uri) };

	c.me = raw_session(c.fd);
	return c;
}

static void leave(struct client *c)
{
	memset(&msg.u, 0, sizeof(msg.u));
	assert_int_equal(raw_ask(c->fd, XM_WIRE_BYE), 0);
	close(c->fd);
}

static uint64_t create(struct client *c, uint64_t slabs)
{
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.create.size_bytes = slabs * RIG_SLAB;
	assert_int_equal(raw_ask(c->fd, XM_WIRE_REGION_CREATE), 0);
	return msg.u.region.id;
}

static int ask_slabs(struct client *c, uint16_t type, uint64_t region, uint64_t first, uint64_t count)
{
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.slabs = (struct xm_wire_slabs){ region, first, count };
	return raw_ask(c->fd, type);
}

static int ask_region(struct client *c, uint16_t type, uint64_t region, uint64_t value)
{
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.op.region = region;
	msg.u.op.value = value;
	return raw_ask(c->fd, type);
}

static bool is_filled(const uint8_t *p, size_t n, uint8_t with)
{
	return p[0] == with && memcmp(p, p + 1, n - 1) == 0;
}

static void all_is_given_back(void)
{
	rig_until(rig_stat(&rig).slabs_used == 0);
}

/* ---- shm ----------------------------------------------------------------------------------------------- */

/* The status of a request for this slab, and its memory object, -1: none came. */
static int ask_object(struct client *c, uint64_t region, uint64_t slab, int *out)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(XM_WIRE_FDS * sizeof(int))];
	} control;
	uint8_t byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	struct xm_wire_header h;
	struct cmsghdr *at;

	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_SLAB_MAP;
	msg.u.slabs = (struct xm_wire_slabs){ region, slab, 1 };
	raw_send_msg(c->fd);
	assert_int_equal(recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC), 1);
	bytes[0] = byte;
	assert_int_equal(raw_recv(c->fd, bytes + 1, XM_WIRE_HEADER - 1), XM_WIRE_HEADER - 1);
	assert_int_equal(xm_wire_decode_header(bytes, XM_WIRE_HEADER, &h), 0);
	raw_recv(c->fd, bytes + XM_WIRE_HEADER, h.length - XM_WIRE_HEADER);
	at = CMSG_FIRSTHDR(&m);
	*out = -1;
	if (at) {
		assert_int_equal(at->cmsg_len, CMSG_LEN(sizeof(int)));
		memcpy(out, CMSG_DATA(at), sizeof(int));
	}
	return h.status;
}

struct object {
	int fd;
	uint8_t *at;
};

static struct object map_object(struct client *c, uint64_t region, uint64_t slab)
{
	struct object o;

	assert_int_equal(ask_object(c, region, slab, &o.fd), 0);
	assert_true(o.fd >= 0);
	o.at = mmap(NULL, RIG_SLAB, PROT_READ | PROT_WRITE, MAP_SHARED, o.fd, 0);
	assert_true(o.at != MAP_FAILED);
	return o;
}

static void unmap_object(struct object *o)
{
	munmap(o->at, RIG_SLAB);
	close(o->fd);
}

/* What a system call says that is given this address: 0, or an errno. */
static int probe(const uint8_t *at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)at, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? 0 : errno;
}

/* The signal that a plain access ends with; 0: none. */
static int signal_of_access(const uint8_t *at)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		signal(SIGBUS, SIG_DFL);
		_exit(*(volatile const uint8_t *)at != 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static bool is_gone(const struct object *o)
{
	uint8_t byte;

	return probe(o->at) == EFAULT && probe(o->at + RIG_SLAB - 1) == EFAULT &&
	       pread(o->fd, &byte, 1, 0) == 0;
}

/* Somebody else gets all the memory that is free, finds zeros and writes. */
static void use_all(struct client *c, struct object *o, uint64_t count)
{
	uint64_t region = create(c, count);

	for (uint64_t i = 0; i < count; i++) {
		o[i] = map_object(c, region, i);
		assert_true(is_filled(o[i].at, RIG_SLAB, 0));
		memset(o[i].at, 0x5a, RIG_SLAB);
	}
}

static void drop_last(struct client *c, uint64_t region)
{
	assert_int_equal(ask_slabs(c, XM_WIRE_REGION_DROP, region, 2, 1), 0);
}

static void shrink(struct client *c, uint64_t region)
{
	assert_int_equal(ask_region(c, XM_WIRE_REGION_RESIZE, region, 2 * RIG_SLAB), 0);
}

static void free_region(struct client *c, uint64_t region)
{
	assert_int_equal(ask_region(c, XM_WIRE_REGION_FREE, region, 0), 0);
}

/* A region of three slabs, mapped; the third one is taken back, the first `kept` ones stay. */
static void keep_what_was_taken(void (*take)(struct client *c, uint64_t region), unsigned kept)
{
	struct client c = enter(rig.shm), other = enter(rig.shm);
	static struct object theirs[POOL];
	uint64_t region = create(&c, 3), count = POOL - kept;
	struct object o[3];
	int fd;

	for (unsigned i = 0; i < 3; i++) {
		o[i] = map_object(&c, region, i);
		memset(o[i].at, (int)(0xa0 + i), RIG_SLAB);
	}
	take(&c, region);
	assert_true(is_gone(&o[2])); /* at once: the reply has come */
	assert_int_equal(signal_of_access(o[2].at), SIGBUS);
	assert_int_equal(ask_object(&c, region, 2, &fd), -ENXIO);
	assert_int_equal(fd, -1);
	use_all(&other, theirs, count);
	assert_true(is_gone(&o[2]));
	/* its own object, which nobody else has: it may have it back, empty */
	assert_int_equal(ftruncate(o[2].fd, (off_t)RIG_SLAB), 0);
	assert_true(is_filled(o[2].at, RIG_SLAB, 0));
	memset(o[2].at, 0x66, RIG_SLAB);
	for (uint64_t i = 0; i < count; i++) {
		assert_true(is_filled(theirs[i].at, RIG_SLAB, 0x5a));
		unmap_object(&theirs[i]);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_true(i == 2 || i < kept || is_gone(&o[i]));
		unmap_object(&o[i]);
		if (i >= kept)
			continue;
		o[i] = map_object(&c, region, i);
		assert_true(is_filled(o[i].at, RIG_SLAB, (uint8_t)(0xa0 + i)));
		unmap_object(&o[i]);
	}
	leave(&c);
	leave(&other);
	all_is_given_back();
}

static void test_mapping_when_slab_is_dropped_then_shows_nobodys_bytes(void **unused)
{
	keep_what_was_taken(drop_last, 2);
}

static void test_mapping_when_region_shrinks_then_shows_nobodys_bytes(void **unused)
{
	keep_what_was_taken(shrink, 2);
}

static void test_mapping_when_region_is_freed_then_shows_nobodys_bytes(void **unused)
{
	keep_what_was_taken(free_region, 0);
}

static void test_mapping_when_session_ends_then_shows_nobodys_bytes(void **unused)
{
	struct client c = enter(rig.shm), other = enter(rig.shm);
	static struct object theirs[POOL];
	struct object o = map_object(&c, create(&c, 1), 0);

	memset(o.at, 0xa0, RIG_SLAB);
	leave(&c); /* and keeps mapping and descriptor */
	all_is_given_back();
	use_all(&other, theirs, POOL); /* that slab's memory among it */
	assert_true(is_gone(&o));
	assert_int_equal(signal_of_access(o.at), SIGBUS);
	assert_int_equal(ftruncate(o.fd, (off_t)RIG_SLAB), 0);
	assert_true(is_filled(o.at, RIG_SLAB, 0));
	for (int i = 0; i < POOL; i++)
		unmap_object(&theirs[i]);
	unmap_object(&o);
	leave(&other);
	all_is_given_back();
}

static void test_mapping_when_many_slabs_are_freed_then_goes_soon(void **unused)
{
	struct rig_options options = rig_defaults();
	static struct object o[XM_SLABS_NOW + 4];
	struct rig own;
	struct client c;
	uint64_t region;

	options.memory_bytes = XM_ARRAY_SIZE(o) * RIG_SLAB;
	rig_start(&own, &options);
	c = enter(own.shm);
	region = create(&c, XM_ARRAY_SIZE(o));
	for (unsigned i = 0; i < XM_ARRAY_SIZE(o); i++) {
		o[i] = map_object(&c, region, i);
		memset(o[i].at, 0xa0, RIG_SLAB);
	}
	free_region(&c, region);
	for (unsigned i = 0; i < XM_ARRAY_SIZE(o); i++) {
		rig_until(is_gone(&o[i]));
		unmap_object(&o[i]);
	}
	leave(&c);
	rig_kill(&own);
}

static void test_mapping_beyond_the_object_then_no_neighbour_is_there(void **unused)
{
	struct client c = enter(rig.shm);
	uint64_t region = create(&c, 2);
	struct object o[2] = { map_object(&c, region, 0), map_object(&c, region, 1) };
	uint8_t *wide = mmap(NULL, 2 * RIG_SLAB, PROT_READ, MAP_SHARED, o[0].fd, 0);

	assert_true(wide != MAP_FAILED);
	memset(o[0].at, 0xa0, RIG_SLAB);
	memset(o[1].at, 0xa1, RIG_SLAB);
	assert_int_equal(probe(wide + RIG_SLAB - 1), 0);
	assert_int_equal(probe(wide + RIG_SLAB), EFAULT);
	assert_int_equal(signal_of_access(wide + RIG_SLAB), SIGBUS);
	munmap(wide, 2 * RIG_SLAB);
	unmap_object(&o[0]);
	unmap_object(&o[1]);
	leave(&c);
	all_is_given_back();
}

static void test_objects_that_are_not_ones_own_are_not_handed_out(void **unused)
{
	struct client c = enter(rig.shm), other = enter(rig.shm), far = enter(rig.tcp);
	uint64_t mine = create(&c, 2), theirs = create(&other, 1), network = create(&far, 1);
	const struct {
		uint64_t region, slab;
		int status;
	} ask[] = {
		{ theirs, 0, -EACCES },
		{ theirs, 9, -EACCES },
		{ network, 0, -EACCES },
		{ mine, 2, -ENXIO },
		{ mine, UINT64_MAX, -ENXIO },
		{ mine, XM_REGION_SLABS_MAX, -ENXIO },
		{ 0, 0, -ENXIO },
		{ UINT64_MAX, 0, -ENXIO },
		{ mine, XM_REGION_SLABS_MAX - 1, -ENXIO },
		{ network + 1, 0, -ENXIO },
	};
	int fd;

	for (unsigned i = 0; i < XM_ARRAY_SIZE(ask); i++) {
		assert_int_equal(ask_object(&c, ask[i].region, ask[i].slab, &fd), ask[i].status);
		assert_int_equal(fd, -1);
	}
	assert_int_equal(ask_slabs(&c, XM_WIRE_SLAB_MAP, mine, 0, 0), -EINVAL);
	assert_int_equal(ask_slabs(&c, XM_WIRE_REGION_DROP, mine, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(ask_slabs(&c, XM_WIRE_REGION_DROP, mine, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(ask_slabs(&c, XM_WIRE_REGION_DROP, theirs, 0, 1), -EACCES);
	assert_int_equal(ask_region(&c, XM_WIRE_REGION_RESIZE, theirs, 0), -EACCES);
	assert_int_equal(ask_region(&c, XM_WIRE_REGION_FREE, theirs, 0), -EACCES);
	assert_int_equal(ask_region(&c, XM_WIRE_REGION_INFO, theirs, 0), -EACCES);
	assert_int_equal(ask_slabs(&far, XM_WIRE_SLAB_MAP, network, 0, 1), -EOPNOTSUPP);
	assert_int_equal(ask_region(&other, XM_WIRE_REGION_INFO, theirs, 0), 0);
	assert_int_equal(msg.u.region.slabs_present, 1);
	leave(&c);
	leave(&other);
	leave(&far);
	all_is_given_back();
}

/* ---- tcp ----------------------------------------------------------------------------------------------- */

static void send_request(int fd, const struct xm_wire_request *r, const void *payload)
{
	uint8_t head[XM_WIRE_REQUEST];

	xm_wire_put_request(head, r);
	raw_send(fd, head, sizeof(head));
	if (r->op != XM_WIRE_READ)
		raw_send(fd, payload, r->len);
}

static struct xm_wire_response answer(int fd, void *payload)
{
	uint8_t head[XM_WIRE_RESPONSE];
	struct xm_wire_response r;

	assert_int_equal(raw_recv(fd, head, sizeof(head)), sizeof(head));
	xm_wire_get_response(head, &r);
	if (r.len) {
		assert_non_null(payload);
		assert_int_equal(raw_recv(fd, payload, r.len), r.len);
	}
	return r;
}

static int transfer(int fd, enum xm_wire_data_op op, uint64_t region, uint64_t off, void *at, uint32_t len)
{
	struct xm_wire_request r = { .op = (uint8_t)op, .len = len, .region = region, .offset = off };

	send_request(fd, &r, at);
	return answer(fd, at).status;
}

static uint8_t slab[RIG_SLAB]; /* what is on its way */

static void fill_region(int fd, uint64_t region, uint64_t slabs, uint8_t with)
{
	for (uint64_t i = 0; i < slabs; i++) {
		memset(slab, with, sizeof(slab));
		assert_int_equal(transfer(fd, XM_WIRE_WRITE, region, i * RIG_SLAB, slab, RIG_SLAB), 0);
	}
}

static bool region_is_filled(int fd, uint64_t region, uint64_t slabs, uint8_t with)
{
	for (uint64_t i = 0; i < slabs; i++)
		if (transfer(fd, XM_WIRE_READ, region, i * RIG_SLAB, slab, RIG_SLAB) != 0 ||
		    !is_filled(slab, RIG_SLAB, with))
			return false;
	return true;
}

struct range {
	uint64_t region, off;
	uint32_t len;
	int status;
};

/* Every operation on each of the ranges, all sent before the first answer is read. */
static void use_what_is_refused(int fd, const struct range *range, unsigned n)
{
	static const enum xm_wire_data_op op[] = { XM_WIRE_READ, XM_WIRE_WRITE, XM_WIRE_CAS, XM_WIRE_FAA };
	static uint8_t junk[2 * PAGE];

	memset(junk, 0xee, sizeof(junk));
	for (unsigned i = 0; i < n * 4; i++) {
		const struct range *g = &range[i / 4];
		struct xm_wire_request r = { .op = (uint8_t)op[i % 4],
					     .len = g->len,
					     .region = g->region,
					     .offset = g->off,
					     .cookie = i + 1 };

		if (i % 4 >= 2) { /* the last word of it; the first, if that is over the end of all numbers */
			uint64_t last = g->off + g->len - 8;

			r.len = i % 4 == 2 ? 16 : 8;
			r.offset = last < g->off ? g->off : last;
		}
		send_request(fd, &r, junk);
	}
	for (unsigned i = 0; i < n * 4; i++) {
		struct xm_wire_response r = answer(fd, NULL);

		assert_int_equal(r.cookie, i + 1);
		assert_int_equal(r.status, range[i / 4].status);
		assert_int_equal(r.len, 0);
		assert_int_equal(r.value, 0);
	}
}

static void test_ranges_not_present_or_not_ones_own_are_refused_and_nobody_notices(void **unused)
{
	struct client c = enter(rig.tcp), other = enter(rig.tcp);
	int data = raw_data(rig.tcp, &c.me), others = raw_data(rig.tcp, &other.me);
	uint64_t mine = create(&c, 4), freed = create(&c, 2), theirs = create(&other, 2), before;
	const struct range range[] = {
		{ mine, RIG_SLAB, PAGE, -ENXIO }, /* dropped */
		{ mine, 2 * RIG_SLAB - PAGE, PAGE, -ENXIO },
		{ mine, RIG_SLAB - PAGE, 2 * PAGE, -ENXIO }, /* into what was dropped */
		{ mine, 4 * RIG_SLAB, PAGE, -ENXIO },
		{ mine, 4 * RIG_SLAB - PAGE, 2 * PAGE, -ENXIO }, /* over the end */
		{ mine, UINT64_MAX - PAGE + 1, PAGE, -ENXIO },	 /* ends at 2^64 */
		{ mine, UINT64_MAX - 7, 2 * PAGE, -ENXIO },	 /* and beyond: the sum is small */
		{ mine, 1ull << 63, PAGE, -ENXIO },
		{ freed, 0, PAGE, -ENXIO },
		{ 0, 0, PAGE, -ENXIO },
		{ UINT64_MAX, 0, PAGE, -ENXIO },
		{ theirs, 0, PAGE, -EACCES },
		{ theirs, 2 * RIG_SLAB, PAGE, -EACCES }, /* nor how large it is */
	};

	fill_region(data, mine, 4, 0x11);
	fill_region(data, freed, 2, 0x22);
	fill_region(others, theirs, 2, 0x33);
	assert_int_equal(ask_slabs(&c, XM_WIRE_REGION_DROP, mine, 1, 1), 0);
	free_region(&c, freed);
	before = rig_stat(&rig).refused;
	for (unsigned round = 0; round < 20; round++) {
		use_what_is_refused(data, range, XM_ARRAY_SIZE(range));
		assert_int_equal(transfer(data, XM_WIRE_READ, mine, 0, slab, RIG_SLAB), 0); /* lives on */
		assert_true(is_filled(slab, RIG_SLAB, 0x11));
		assert_int_equal(transfer(others, XM_WIRE_READ, theirs, RIG_SLAB / 2, slab, RIG_SLAB), 0);
		assert_true(is_filled(slab, RIG_SLAB, 0x33));
	}
	assert_true(rig_stat(&rig).refused >= before + 20 * 4 * XM_ARRAY_SIZE(range));
	for (uint64_t i = 2; i < 4; i++) {
		assert_int_equal(transfer(data, XM_WIRE_READ, mine, i * RIG_SLAB, slab, RIG_SLAB), 0);
		assert_true(is_filled(slab, RIG_SLAB, 0x11));
	}
	assert_true(region_is_filled(others, theirs, 2, 0x33));
	close(data);
	close(others);
	leave(&c);
	leave(&other);
	all_is_given_back();
}

static void test_region_when_freed_and_lent_again_then_old_id_reaches_nothing(void **unused)
{
	struct client c = enter(rig.tcp), other = enter(rig.tcp);
	int data = raw_data(rig.tcp, &c.me), others = raw_data(rig.tcp, &other.me);
	uint64_t old = create(&c, POOL), theirs;

	fill_region(data, old, POOL, 0xa0);
	free_region(&c, old);
	theirs = create(&other, POOL); /* all there is: the same memory among it */
	assert_int_not_equal(theirs, old);
	assert_true(region_is_filled(others, theirs, POOL, 0));
	fill_region(others, theirs, POOL, 0x33);
	for (uint64_t i = 0; i < POOL; i++) {
		assert_int_equal(transfer(data, XM_WIRE_READ, old, i * RIG_SLAB, slab, RIG_SLAB), -ENXIO);
		assert_int_equal(transfer(data, XM_WIRE_WRITE, old, i * RIG_SLAB, slab, RIG_SLAB), -ENXIO);
		assert_int_equal(transfer(data, XM_WIRE_READ, theirs, i * RIG_SLAB, slab, RIG_SLAB), -EACCES);
		assert_int_equal(transfer(data, XM_WIRE_WRITE, theirs, i * RIG_SLAB, slab, RIG_SLAB),
				 -EACCES);
	}
	assert_true(region_is_filled(others, theirs, POOL, 0x33));
	close(data);
	close(others);
	leave(&c);
	leave(&other);
	all_is_given_back();
}

/* The rest of the write comes when the slab has long been taken back, and all other memory lent. */
static void test_write_when_its_slab_is_freed_half_way_then_lands_with_nobody(void **unused)
{
	struct client c = enter(rig.tcp), other = enter(rig.tcp);
	int data = raw_data(rig.tcp, &c.me), others = raw_data(rig.tcp, &other.me);
	struct xm_wire_request r = { .op = XM_WIRE_WRITE, .len = RIG_SLAB, .region = create(&c, 1) };
	uint64_t region, last, before = rig_stat(&rig).writes;
	uint8_t head[XM_WIRE_REQUEST];

	memset(slab, 0xee, sizeof(slab));
	xm_wire_put_request(head, &r);
	raw_send(data, head, sizeof(head));
	raw_send(data, slab, RIG_SLAB / 2);
	rig_until(rig_stat(&rig).writes > before); /* it has the slab */
	free_region(&c, r.region);
	region = create(&other, POOL - 1); /* the slab is lent until the transfer is over */
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.create.size_bytes = RIG_SLAB;
	assert_int_equal(raw_ask(other.fd, XM_WIRE_REGION_CREATE), -ENOMEM);
	assert_true(region_is_filled(others, region, POOL - 1, 0));
	memset(slab, 0xee, sizeof(slab));
	raw_send(data, slab, RIG_SLAB / 2);
	assert_int_equal(answer(data, NULL).status, 0); /* it was there when this began */
	assert_true(region_is_filled(others, region, POOL - 1, 0));
	rig_until(rig_stat(&rig).slabs_used == POOL - 1);
	last = create(&other, 1);
	assert_true(region_is_filled(others, last, 1, 0));
	assert_int_equal(transfer(data, XM_WIRE_READ, r.region, 0, slab, PAGE), -ENXIO);
	close(data);
	close(others);
	leave(&c);
	leave(&other);
	all_is_given_back();
}

/* A write that comes whole, so that the appliance copies it: into the first page of the region. */
static int write_at_once(int fd, uint64_t region)
{
	struct xm_wire_request r = { .op = XM_WIRE_WRITE, .len = PAGE, .region = region };
	uint8_t both[XM_WIRE_REQUEST + PAGE] = { 0 };

	xm_wire_put_request(both, &r);
	raw_send(fd, both, sizeof(both));
	return answer(fd, NULL).status;
}

/* A session that has both kinds of connection pulls a slab away from under the appliance. */
static void test_slab_when_its_owner_truncates_it_then_only_the_owner_is_hurt(void **unused)
{
#if defined(__SANITIZE_THREAD__)
	skip(); /* its atomics hold a lock of its own, which the appliance's way out by signal leaves locked */
#endif
	struct client c = enter(rig.shm), other = enter(rig.tcp);
	int data = raw_data(rig.tcp, &c.me), others = raw_data(rig.tcp, &other.me);
	uint64_t mine = create(&c, 2), theirs = create(&other, 1);
	struct object o = map_object(&c, mine, 0);
	struct xm_wire_request r = { .op = XM_WIRE_READ, .len = RIG_SLAB };

	fill_region(data, mine, 2, 0x11);
	fill_region(others, theirs, 1, 0x33);
	assert_int_equal(ftruncate(o.fd, 0), 0);
	memset(slab, 0, sizeof(slab));
	assert_int_equal(transfer(data, XM_WIRE_FAA, mine, 0, slab, 8), -EIO);
	assert_int_equal(transfer(data, XM_WIRE_CAS, mine, 0, slab, 16), -EIO);
	assert_int_equal(write_at_once(data, mine), -EIO);
	r.region = mine;
	send_request(data, &r, NULL);
	assert_true(closed(data)); /* the answer had begun: it cannot be taken back */
	close(data);
	data = raw_data(rig.tcp, &c.me);
	assert_int_equal(transfer(data, XM_WIRE_READ, mine, RIG_SLAB, slab, RIG_SLAB), 0);
	assert_true(is_filled(slab, RIG_SLAB, 0x11));
	assert_true(region_is_filled(others, theirs, 1, 0x33));
	free_region(&c, mine);
	unmap_object(&o);
	close(data);
	close(others);
	leave(&c);
	leave(&other);
	all_is_given_back();
}

static int start_rig(void **unused)
{
	struct rig_options o = rig_defaults();

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
		cmocka_unit_test(test_mapping_when_slab_is_dropped_then_shows_nobodys_bytes),
		cmocka_unit_test(test_mapping_when_region_shrinks_then_shows_nobodys_bytes),
		cmocka_unit_test(test_mapping_when_region_is_freed_then_shows_nobodys_bytes),
		cmocka_unit_test(test_mapping_when_session_ends_then_shows_nobodys_bytes),
		cmocka_unit_test(test_mapping_when_many_slabs_are_freed_then_goes_soon),
		cmocka_unit_test(test_mapping_beyond_the_object_then_no_neighbour_is_there),
		cmocka_unit_test(test_objects_that_are_not_ones_own_are_not_handed_out),
		cmocka_unit_test(test_ranges_not_present_or_not_ones_own_are_refused_and_nobody_notices),
		cmocka_unit_test(test_region_when_freed_and_lent_again_then_old_id_reaches_nothing),
		cmocka_unit_test(test_write_when_its_slab_is_freed_half_way_then_lands_with_nobody),
		cmocka_unit_test(test_slab_when_its_owner_truncates_it_then_only_the_owner_is_hurt),
	};

	xm_log_init("test_appliance_manners", XM_LOG_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(240);
	return cmocka_run_group_tests(tests, start_rig, stop_rig);
}
