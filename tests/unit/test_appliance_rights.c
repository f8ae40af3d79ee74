/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_appliance_rights.c - who may do what: the table of access.c, and clients without manners or of an older version that
 * meet a shared region.
 */
#include "tests/unit/raw_client.h"

#include "appliance/appliance.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define PAGE 4096u
#define NOT_ME 65534u

static struct rig rig;

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

/* ---- the table ----------------------------------------------------------------------------------------- */

static struct xm_wire_rule rule(unsigned kind, uint32_t uid, uint32_t rights)
{
	struct xm_wire_rule r = { .kind = (uint8_t)kind, .rights = rights };

	for (unsigned i = 0; i < 4; i++)
		r.principal[i] = (uint8_t)(uid >> (8 * i));
	return r;
}

#define ANY XM_WIRE_RULE_ANYBODY
#define USER XM_WIRE_RULE_USER
#define R XM_WIRE_RIGHT_READ
#define RW (XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE)

static void test_rights_when_looked_up_then_are_what_the_rules_say(void **unused)
{
	static struct xm_session owner = { .uid = 7, .one_user = true },
				 local7 = { .uid = 7, .one_user = true },
				 local8 = { .uid = 8, .one_user = true }, attached7 = { .uid = 7 },
				 network = { .uid = (uid_t)-1 };
	const struct xm_session *who[] = { &owner, &local7, &local8, &attached7, &network };
	const struct {
		struct xm_wire_rule rules[2];
		uint32_t want[5];
	} cases[] = {
		{ { rule(ANY, 0, R) }, { 7, R, R, R, R } },
		{ { rule(ANY, 0, RW) }, { 7, RW, RW, RW, RW } },
		{ { rule(USER, 7, R) }, { 7, R, 0, 0, 0 } },
		{ { rule(USER, 8, RW) }, { 7, 0, RW, 0, 0 } },
		{ { rule(USER, 7, RW), rule(ANY, 0, R) }, { 7, RW, R, R, R } },
		{ { rule(USER, 7, R), rule(USER, 8, RW) }, { 7, R, RW, 0, 0 } },
		{ { rule(USER, UINT32_MAX, RW) }, { 7, 0, 0, 0, 0 } },
		{ { rule(USER, 0x107, RW) }, { 7, 0, 0, 0, 0 } },
		{ { rule(ANY, 0, 0xffffffff) }, { 7, RW, RW, RW, RW } }, /* nobody else manages */
	};

	for (unsigned i = 0; i < XM_ARRAY_SIZE(cases); i++) {
		struct xm_region r = { .session = &owner, .type = XM_WIRE_REGION_SHARED };

		memcpy(r.rules, cases[i].rules, sizeof(cases[i].rules));
		for (unsigned k = 0; k < XM_ARRAY_SIZE(who); k++) {
			uint32_t want = cases[i].want[k];

			assert_int_equal(xm_access_rights(who[k], &r), want);
			assert_int_equal(xm_access_region(who[k], &r, XM_ACCESS_DATA_READ),
					 want & 1 ? 0 : -EACCES);
			assert_int_equal(xm_access_region(who[k], &r, XM_ACCESS_DATA_WRITE),
					 want & 2 ? 0 : -EACCES);
			assert_int_equal(xm_access_region(who[k], &r, XM_ACCESS_METADATA_READ),
					 want & 1 ? 0 : -EACCES);
			assert_int_equal(xm_access_region(who[k], &r, XM_ACCESS_METADATA_WRITE),
					 want & 4 ? 0 : -EACCES);
		}
		r.type = XM_WIRE_REGION_PRIVATE; /* whatever stands in it */
		for (unsigned k = 0; k < XM_ARRAY_SIZE(who); k++)
			assert_int_equal(xm_access_rights(who[k], &r), k ? 0 : 7);
	}
}

static void test_rules_when_checked_then_only_what_has_a_meaning_passes(void **unused)
{
	struct xm_wire_rule none[XM_WIRE_RULES] = { 0 }, r[XM_WIRE_RULES];

	assert_int_equal(xm_access_check_rules(0, none), 0);
	assert_int_equal(xm_access_check_rules(1, none), 0);
	assert_int_equal(xm_access_check_rules(2, none), -EINVAL);
	for (unsigned at = 0; at < XM_WIRE_RULES; at++) {
		const struct xm_wire_rule good[] = { rule(ANY, 0, R), rule(ANY, 0, RW), rule(USER, 0, R),
						     rule(USER, 0xfffffffe, RW) };
		const struct xm_wire_rule bad[] = { rule(ANY, 0, 2), rule(ANY, 0, 0),  rule(ANY, 0, 4 | R),
						    rule(ANY, 5, R), rule(USER, 5, 2), rule(USER, 5, 8 | RW),
						    rule(3, 0, R),   rule(0, 0, R),    rule(0, 1, 0) };

		for (unsigned i = 0; i < XM_ARRAY_SIZE(good); i++) {
			memset(r, 0, sizeof(r));
			r[at] = good[i];
			assert_int_equal(xm_access_check_rules(2, r), 0);
			assert_int_equal(xm_access_check_rules(1, r), -EINVAL);
			assert_int_equal(xm_access_check_rules(0, r), -EINVAL);
			r[at].principal[15] = 1;
			assert_int_equal(xm_access_check_rules(2, r), -EINVAL);
		}
		for (unsigned i = 0; i < XM_ARRAY_SIZE(bad); i++) {
			memset(r, 0, sizeof(r));
			r[(at + 1) % XM_WIRE_RULES] = good[0];
			r[at] = bad[i];
			assert_int_equal(xm_access_check_rules(2, r), -EINVAL);
		}
	}
}

static void test_memory_objects_are_for_the_owner_and_trusted_users(void **unused)
{
	struct xm_hello_context me = { true, geteuid() }, root = { true, 0 }, other = { true, geteuid() + 1 },
				tcp = { false, (uid_t)-1 };

	assert_int_equal(xm_access_map(&me, R), 0);
	assert_int_equal(xm_access_map(&root, RW), 0);
	assert_int_equal(xm_access_map(&other, R), -EACCES);
	assert_int_equal(xm_access_map(&other, RW), -EACCES);
	assert_int_equal(xm_access_map(&other, XM_WIRE_RIGHTS_OWN), 0); /* its own session's */
	assert_int_equal(xm_access_map(&tcp, XM_WIRE_RIGHTS_OWN), -EACCES);
}

/* ---- clients ------------------------------------------------------------------------------------------- */

struct client {
	int fd;
	struct xm_wire_hello_reply me;
};

static struct client enter(const char *uri, uint16_t minor)
{
	struct client c = { .fd = raw_connect(uri) };

	hello(XM_WIRE_ROLE_CONTROL);
	msg.u.hello.minor = minor;
	raw_send_msg(c.fd);
	assert_int_equal(raw_recv_msg(c.fd), 1);
	assert_int_equal(msg.h.status, 0);
	c.me = msg.u.hello_reply;
	assert_int_equal(c.me.minor, XM_WIRE_MINOR);
	return c;
}

static int create(struct client *c, uint32_t type, const char *name, struct xm_wire_rule first)
{
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.create = (struct xm_wire_region_create){ .size_bytes = 2 * RIG_SLAB, .type = type };
	strcpy(msg.u.create.name, name);
	msg.u.create.rules[0] = first;
	return raw_ask(c->fd, XM_WIRE_REGION_CREATE);
}

static int open_region(struct client *c, const char *name)
{
	memset(&msg.u, 0, sizeof(msg.u));
	strcpy(msg.u.op.name, name);
	return raw_ask(c->fd, XM_WIRE_REGION_OPEN);
}

/* SLAB_MAP of slab 0; the status; *fd: what came, or -1. */
static int map(struct client *c, uint64_t region, int *fd)
{
	char room[CMSG_SPACE(XM_WIRE_FDS * sizeof(int))];
	struct iovec iov = { bytes, sizeof(bytes) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)
	};
	struct cmsghdr *cmsg;
	ssize_t n;

	*fd = -1;
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_SLAB_MAP;
	msg.u.slabs = (struct xm_wire_slabs){ region, 0, 1 };
	raw_send_msg(c->fd);
	n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC);
	assert_true(n > 0);
	assert_int_equal(xm_wire_decode(bytes, (size_t)n, &msg), 0);
	cmsg = CMSG_FIRSTHDR(&m);
	if (cmsg) {
		assert_int_equal(cmsg->cmsg_len, CMSG_LEN(sizeof(int)));
		memcpy(fd, CMSG_DATA(cmsg), sizeof(int));
	}
	return msg.h.status;
}

static uint8_t *map_with(int fd, int prot)
{
	void *p = mmap(NULL, RIG_SLAB, prot, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void test_reader_without_manners_when_over_shm_then_cannot_map_for_writing(void **unused)
{
	struct client owner = enter(rig.shm, XM_WIRE_MINOR), guest = enter(rig.shm, XM_WIRE_MINOR);
	uint8_t *mine, *theirs;
	uint64_t region;
	int fd;

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, R)), 0);
	region = msg.u.region.id;
	assert_int_equal(msg.u.region.rights, XM_WIRE_RIGHTS_OWN);
	assert_int_equal(map(&owner, region, &fd), 0);
	assert_int_equal(msg.u.mapped.rights, RW);
	mine = map_with(fd, PROT_READ | PROT_WRITE);
	assert_non_null(mine);
	close(fd);
	mine[5] = 0x5a;
	for (unsigned again = 0; again < 3; again++) {
		assert_int_equal(map(&guest, region, &fd), 0);
		assert_int_equal(msg.u.mapped.rights, R);
		assert_int_equal(msg.u.mapped.count, 1);
		assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
		assert_null(map_with(fd, PROT_READ | PROT_WRITE));
		assert_int_equal(errno, EACCES);
		assert_null(map_with(fd, PROT_WRITE));
		theirs = map_with(fd, PROT_READ);
		assert_non_null(theirs);
		assert_int_equal(theirs[5], 0x5a);
		assert_int_equal(mprotect(theirs, PAGE, PROT_READ | PROT_WRITE), -1);
		assert_int_equal(errno, EACCES);
		assert_int_equal(pwrite(fd, "x", 1, 5), -1);
		assert_int_equal(ftruncate(fd, 0), -1);
		assert_int_equal(theirs[5], 0x5a);
		munmap(theirs, RIG_SLAB);
		close(fd);
	}
	assert_int_equal(mine[5], 0x5a);
	munmap(mine, RIG_SLAB);
	close(guest.fd);
	close(owner.fd);
}

/* Descriptors that were made for replies are closed: the appliance has as many as before. */
static unsigned descriptors(void)
{
	char path[64];
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)rig.pid, fd);
		n += access(path, F_OK) == 0 || faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	return n;
}

static void test_readers_descriptors_when_sent_then_are_closed(void **unused)
{
	struct client owner = enter(rig.shm, XM_WIRE_MINOR), guest = enter(rig.shm, XM_WIRE_MINOR);
	unsigned before;
	uint64_t region;
	int fd;

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, R)), 0);
	region = msg.u.region.id;
	assert_int_equal(map(&guest, region, &fd), 0);
	close(fd);
	rig_until(rig_stat(&rig).warm_bytes == 2 * RIG_SLAB);
	before = descriptors();
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(map(&guest, region, &fd), 0);
		close(fd);
	}
	rig_until(descriptors() <= before);
	/* nor does one stay open for a guest that asks and goes */
	for (unsigned i = 0; i < 20; i++) {
		struct client c = enter(rig.shm, XM_WIRE_MINOR);

		memset(&msg, 0, sizeof(msg));
		msg.h.type = XM_WIRE_SLAB_MAP;
		msg.u.slabs = (struct xm_wire_slabs){ region, 0, 1 };
		raw_send_msg(c.fd);
		close(c.fd);
	}
	rig_until(rig_stat(&rig).sessions == 3 && descriptors() <= before);
	close(guest.fd);
	close(owner.fd);
}

static uint8_t payload[PAGE]; /* of transfers, either way */

/* One request of the data path; the status. */
static int transfer(int fd, uint8_t op, uint64_t region, uint32_t len)
{
	uint8_t head[XM_WIRE_REQUEST];
	struct xm_wire_response r;

	xm_wire_put_request(head,
			    &(struct xm_wire_request){ .op = op, .len = len, .region = region, .cookie = 3 });
	raw_send(fd, head, sizeof(head));
	if (op != XM_WIRE_READ)
		raw_send(fd, payload, len);
	assert_int_equal(raw_recv(fd, head, XM_WIRE_RESPONSE), XM_WIRE_RESPONSE);
	xm_wire_get_response(head, &r);
	assert_int_equal(r.cookie, 3);
	assert_int_equal(raw_recv(fd, payload, r.len), r.len);
	return r.status;
}

static void test_reader_without_manners_when_over_tcp_then_its_writes_are_refused(void **unused)
{
	static uint8_t mine[PAGE];
	struct client owner = enter(rig.tcp, XM_WIRE_MINOR), guest = enter(rig.tcp, XM_WIRE_MINOR);
	int data = raw_data(rig.tcp, &guest.me), full = raw_data(rig.tcp, &owner.me);
	uint64_t region, nobodys;

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, R)), 0);
	region = msg.u.region.id;
	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "other", rule(USER, UINT32_MAX, RW)), 0);
	nobodys = msg.u.region.id;
	for (unsigned i = 0; i < PAGE; i++)
		mine[i] = payload[i] = (uint8_t)(i * 7 + 3);
	assert_int_equal(transfer(full, XM_WIRE_WRITE, region, PAGE), 0);
	for (unsigned again = 0; again < 2; again++) {
		memset(payload, 0xee, PAGE);
		assert_int_equal(transfer(data, XM_WIRE_WRITE, region, PAGE), -EACCES);
		assert_int_equal(transfer(data, XM_WIRE_CAS, region, 16), -EACCES);
		assert_int_equal(transfer(data, XM_WIRE_FAA, region, 8), -EACCES);
		assert_int_equal(transfer(data, XM_WIRE_READ, region, PAGE), 0);
		assert_int_equal(transfer(data, XM_WIRE_READ, nobodys, PAGE), -EACCES);
		assert_int_equal(transfer(data, XM_WIRE_WRITE, nobodys, PAGE), -EACCES);
		assert_memory_equal(payload, mine, PAGE);
		memset(payload, 0, PAGE);
		assert_int_equal(transfer(full, XM_WIRE_READ, region, PAGE), 0);
		assert_memory_equal(payload, mine, PAGE);
		memset(payload, 0, 8); /* adds nothing */
		assert_int_equal(transfer(full, XM_WIRE_FAA, region, 8), 0);
		assert_int_equal(transfer(full, XM_WIRE_WRITE, nobodys, PAGE), 0);
	}
	close(data);
	close(full);
	close(guest.fd);
	close(owner.fd);
}

static int peek(const uint8_t *at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)at, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? byte : -errno;
}

static int free_region(struct client *c, uint64_t region)
{
	memset(&msg.u, 0, sizeof(msg.u));
	msg.u.op.region = region;
	return raw_ask(c->fd, XM_WIRE_REGION_FREE);
}

/* One guest reads over tcp and does not take what it asked for; that keeps slabs, but not for another one's mapping. */
static void test_mapping_when_another_guest_holds_the_slab_over_tcp_then_is_gone_with_the_region(
	void **unused)
{
	struct client owner = enter(rig.shm, XM_WIRE_MINOR), guest = enter(rig.shm, XM_WIRE_MINOR),
		      slow = enter(rig.tcp, XM_WIRE_MINOR);
	int data = raw_data(rig.tcp, &slow.me), fresh, fd;
	struct xm_wire_request want = { .op = XM_WIRE_READ, .len = RIG_SLAB };
	uint8_t head[XM_WIRE_REQUEST], *theirs;

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, RW)), 0);
	want.region = msg.u.region.id;
	assert_int_equal(map(&guest, want.region, &fd), 0);
	theirs = map_with(fd, PROT_READ | PROT_WRITE);
	assert_non_null(theirs);
	close(fd);
	theirs[5] = 0x5a;
	xm_wire_put_request(head, &want);
	for (unsigned i = 0; i < 40; i++)
		raw_send(data, head, sizeof(head));
	rig_until(rig_stat(&rig).reads > 4);
	assert_int_equal(peek(theirs + 5), 0x5a);
	assert_int_equal(free_region(&owner, want.region), 0);
	assert_int_equal(peek(theirs + 5), -EFAULT);
	shutdown(data, SHUT_RDWR);
	close(data);
	rig_until(rig_stat(&rig).slabs_used == 0);
	fresh = raw_data(rig.tcp, &slow.me);
	assert_int_equal(transfer(fresh, XM_WIRE_READ, want.region, PAGE), -ENXIO);
	munmap(theirs, RIG_SLAB);
	close(fresh);
	close(slow.fd);
	close(guest.fd);
	close(owner.fd);
}

/* Its last bytes come when the slab has been cut under it. */
static void test_atomic_when_the_region_is_freed_before_its_operand_comes_then_finds_nothing(void **unused)
{
	struct client owner = enter(rig.tcp, XM_WIRE_MINOR), guest = enter(rig.tcp, XM_WIRE_MINOR);
	int data = raw_data(rig.tcp, &guest.me);
	struct xm_wire_request want = { .op = XM_WIRE_FAA, .len = 8, .cookie = 3 };
	uint8_t head[XM_WIRE_REQUEST];
	struct xm_wire_response r;

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, RW)), 0);
	want.region = msg.u.region.id;
	xm_wire_put_request(head, &want);
	raw_send(data, head, sizeof(head));
	rig_until(rig_stat(&rig).atomics == 1);
	assert_int_equal(free_region(&owner, want.region), 0);
	raw_send(data, payload, 8);
	assert_int_equal(raw_recv(data, head, XM_WIRE_RESPONSE), XM_WIRE_RESPONSE);
	xm_wire_get_response(head, &r);
	assert_int_equal(r.status, -ENXIO);
	assert_int_equal(transfer(data, XM_WIRE_READ, want.region, PAGE), -ENXIO);
	close(data);
	close(guest.fd);
	close(owner.fd);
}

/* Whoever has a descriptor can have the kernel ask him before it lets others open the object. */
static void test_reader_when_somebody_has_a_lease_on_the_object_then_is_told_to_come_again(void **unused)
{
	struct client owner = enter(rig.shm, XM_WIRE_MINOR), guest = enter(rig.shm, XM_WIRE_MINOR);
	uint64_t region, before;
	int leased, fd;
	char path[64];

	signal(SIGIO, SIG_IGN);
	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, R)), 0);
	region = msg.u.region.id;
	assert_int_equal(map(&owner, region, &fd), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	leased = open(path, O_RDWR | O_CLOEXEC);
	assert_true(leased >= 0);
	close(fd);
	assert_int_equal(fcntl(leased, F_SETLEASE, F_WRLCK), 0);
	before = xm_now_ns();
	assert_int_equal(map(&guest, region, &fd), -EMFILE);
	assert_true(xm_now_ns() - before < 5000000000ull);
	assert_int_equal(fcntl(leased, F_SETLEASE, F_UNLCK), 0);
	assert_int_equal(map(&guest, region, &fd), 0);
	close(fd);
	close(leased);
	close(guest.fd);
	close(owner.fd);
}

static void test_guest_when_it_attached_as_another_user_then_gets_no_memory_object(void **unused)
{
	struct client owner, guest;
	int status = 0, fd;
	uint64_t region;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	owner = enter(rig.shm, XM_WIRE_MINOR);
	guest = enter(rig.shm, XM_WIRE_MINOR);
	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, RW)), 0);
	region = msg.u.region.id;
	assert_int_equal(create(&guest, XM_WIRE_REGION_PRIVATE, "", rule(0, 0, 0)), 0);
	pid = fork();
	if (pid == 0) {
		struct client c = { 0 };
		int ret = 0;

		if (setgid(NOT_ME) < 0 || setuid(NOT_ME) < 0)
			_exit(9);
		c.fd = raw_connect(rig.shm);
		hello(XM_WIRE_ROLE_CONTROL);
		msg.u.hello.session = guest.me.session;
		memcpy(msg.u.hello.token, guest.me.token, sizeof(msg.u.hello.token));
		raw_send_msg(c.fd);
		if (!raw_recv_msg(c.fd) || msg.h.status < 0)
			_exit(8);
		ret |= map(&c, region, &fd) == -EACCES && fd < 0 ? 0 : 1;
		ret |= map(&c, region + 1, &fd) == 0 && fd >= 0 ? 0 : 2; /* its own session's */
		_exit(ret);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(map(&guest, region, &fd), 0); /* the other connection is still this user's */
	close(fd);
	close(guest.fd);
	close(owner.fd);
}

/* ---- versions ------------------------------------------------------------------------------------------ */

static void test_client_of_1_2_when_it_opens_then_finds_its_own_only(void **unused)
{
	struct client owner = enter(rig.tcp, XM_WIRE_MINOR), old = enter(rig.tcp, 2),
		      new = enter(rig.tcp, XM_WIRE_MINOR);

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, R)), 0);
	assert_int_equal(open_region(&old, "ours"), -ENOENT);
	assert_int_equal(open_region(&new, "ours"), 0);
	assert_int_equal(msg.u.region.rights, R);
	assert_int_equal(msg.u.region.rules[0].kind, ANY);
	assert_int_equal(msg.u.region.rules[0].rights, R);
	assert_int_equal(open_region(&owner, "ours"), 0);
	assert_int_equal(msg.u.region.rights, XM_WIRE_RIGHTS_OWN);
	/* its REGION_CREATE ends behind the name */
	memset(&msg, 0, sizeof(msg));
	msg.h.type = XM_WIRE_REGION_CREATE;
	msg.u.create.size_bytes = RIG_SLAB;
	strcpy(msg.u.create.name, "ours");
	assert_int_equal(xm_wire_encode(&msg, bytes, sizeof(bytes)), 188);
	bytes[0] = 188 - 84;
	raw_send(old.fd, bytes, 188 - 84);
	assert_int_equal(raw_recv_msg(old.fd), 1);
	assert_int_equal(msg.h.status, 0);
	assert_int_equal(open_region(&old, "ours"), 0);
	assert_int_equal(msg.u.region.rights, XM_WIRE_RIGHTS_OWN);
	close(old.fd);
	close(new.fd);
	close(owner.fd);
}

static void test_list_has_the_sessions_own_regions_only(void **unused)
{
	struct client owner = enter(rig.tcp, XM_WIRE_MINOR), guest = enter(rig.tcp, XM_WIRE_MINOR);

	assert_int_equal(create(&owner, XM_WIRE_REGION_SHARED, "ours", rule(ANY, 0, RW)), 0);
	assert_int_equal(open_region(&guest, "ours"), 0);
	memset(&msg.u, 0, sizeof(msg.u));
	assert_int_equal(raw_ask(guest.fd, XM_WIRE_REGION_LIST), 0);
	assert_int_equal(msg.u.list.count, 0);
	memset(&msg.u, 0, sizeof(msg.u));
	assert_int_equal(raw_ask(owner.fd, XM_WIRE_REGION_LIST), 0);
	assert_int_equal(msg.u.list.count, 1);
	assert_string_equal(msg.u.list.region[0].name, "ours");
	close(guest.fd);
	close(owner.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rights_when_looked_up_then_are_what_the_rules_say),
		cmocka_unit_test(test_rules_when_checked_then_only_what_has_a_meaning_passes),
		cmocka_unit_test(test_memory_objects_are_for_the_owner_and_trusted_users),
		cmocka_unit_test_setup_teardown(
			test_reader_without_manners_when_over_shm_then_cannot_map_for_writing, start_rig,
			stop_rig),
		cmocka_unit_test_setup_teardown(test_readers_descriptors_when_sent_then_are_closed, start_rig,
						stop_rig),
		cmocka_unit_test_setup_teardown(
			test_reader_without_manners_when_over_tcp_then_its_writes_are_refused, start_rig,
			stop_rig),
		cmocka_unit_test_setup_teardown(
			test_mapping_when_another_guest_holds_the_slab_over_tcp_then_is_gone_with_the_region,
			start_rig, stop_rig),
		cmocka_unit_test_setup_teardown(
			test_atomic_when_the_region_is_freed_before_its_operand_comes_then_finds_nothing,
			start_rig, stop_rig),
		cmocka_unit_test_setup_teardown(
			test_reader_when_somebody_has_a_lease_on_the_object_then_is_told_to_come_again,
			start_rig, stop_rig),
		cmocka_unit_test_setup_teardown(
			test_guest_when_it_attached_as_another_user_then_gets_no_memory_object, start_rig,
			stop_rig),
		cmocka_unit_test_setup_teardown(test_client_of_1_2_when_it_opens_then_finds_its_own_only,
						start_rig, stop_rig),
		cmocka_unit_test_setup_teardown(test_list_has_the_sessions_own_regions_only, start_rig,
						stop_rig),
	};

	alarm(300);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
