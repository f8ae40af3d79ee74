/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family.c - the shared object of a family: making, mapping and joining it, process entries, charges.
 * Giving back what the dead left is family_reap.c's.
 *
 * Runs inside covered programs, on any thread, before and between everything else: raw system calls only, no
 * malloc, no stdio, no locks but the entry lock of xm_proc.owner (a pid in shared memory, never waited for).
 * Deliberately not here: slots (slots.c), page words (pagetab.c), growth of the pool (the runtime and the keeper).
 */
#include "runtime/family.h"

#include <errno.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "fdgate.h"
#include "log.h"
#include "procid.h"
#include "runtime/family_internal.h"
#include "runtime/runtime.h"
#include "sys.h"

#define JOIN_TIMEOUT_S 5

_Static_assert(sizeof(struct xm_family) <= XM_FAM_REFS_OFF, "the header fits before the reference counts");
_Static_assert(XM_FAM_PT_OFF % XM_PAGE_SIZE == 0, "page tables start on a page");

/* ---- the object --------------------------------------------------------------------------------------- */

static struct xm_family *map_object(int fd, bool writable, int *err)
{
	long addr = xm_sys6(SYS_mmap, 0, (long)XM_FAM_BYTES, PROT_READ | (writable ? PROT_WRITE : 0),
			    MAP_SHARED | MAP_NORESERVE, fd, 0);

	if (xm_sys_is_error(addr)) {
		*err = (int)addr;
		return NULL;
	}
	/* a core dump would read every hole of it into memory; huge pages would do the same on each touch */
	xm_sys_madvise((void *)addr, XM_FAM_BYTES, MADV_DONTDUMP);
	xm_sys_madvise((void *)addr, XM_FAM_BYTES, MADV_NOHUGEPAGE);
	return (struct xm_family *)addr;
}

static int make_object(void)
{
	struct rlimit64 lim = { 0 };
	int fd, ret;

	/* beyond the limit ftruncate raises SIGXFSZ, which would end the program */
	if (xm_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &lim) == 0 && lim.rlim_cur < XM_FAM_BYTES)
		return -EFBIG;
	fd = (int)xm_sys2(SYS_memfd_create, "xmem-family", MFD_CLOEXEC);
	if (fd < 0)
		return fd;
	ret = (int)xm_sys2(SYS_ftruncate, fd, XM_FAM_BYTES);
	/* a memfd is born 0777: others could re-open a read-only descriptor for writing */
	if (!ret)
		ret = (int)xm_sys2(SYS_fchmod, fd, 0600);
	if (ret) {
		xm_sys_close(fd);
		return ret;
	}
	return fd;
}

/* Whether data travels to an appliance through something that can still hold it when the sender is dead */
static bool over_network(const struct xm_family_config *cfg)
{
	for (uint32_t i = 0; i < cfg->appliances && i < XM_MAX_APPLIANCES; i++)
		if (strncmp(cfg->appliance[i].uri, "shm:", 4) != 0)
			return true;
	return false;
}

struct xm_family *xm_family_create(const struct xm_family_config *cfg, int *fd, int *err)
{
	struct xm_family *f;
	struct xm_procid self;
	int obj = make_object();

	if (obj < 0) {
		*err = obj;
		return NULL;
	}
	f = map_object(obj, true, err);
	if (!f) {
		xm_sys_close(obj);
		return NULL;
	}
	xm_procid_self(&self);
	f->version = XM_FAM_VERSION;
	f->header_bytes = sizeof(*f);
	f->cfg = *cfg;
	f->budget_pages = cfg->budget_bytes >> XM_PAGE_SHIFT;
	f->commit_limit_pages = cfg->size_bytes ? cfg->size_bytes >> XM_PAGE_SHIFT : UINT64_MAX;
	f->pidns = self.pid ? self.pidns : 0;
	f->created_ns = xm_now_ns();
	f->reap_grace_ns = over_network(cfg) ? XM_NETWORK_GRACE_NS : 0;
	xm_store(&f->magic, XM_FAM_MAGIC);
	if (fd)
		*fd = obj;
	else
		xm_sys_close(obj);
	return f;
}

struct xm_family *xm_family_map(int fd, bool writable, int *err)
{
	struct xm_family *f;
	struct stat st;

	if (fstat(fd, &st) != 0 || (uint64_t)st.st_size != XM_FAM_BYTES) {
		*err = -EPROTO;
		return NULL;
	}
	f = map_object(fd, writable, err);
	if (!f)
		return NULL;
	if (xm_load(&f->magic) != XM_FAM_MAGIC || f->version != XM_FAM_VERSION ||
	    f->header_bytes != sizeof(*f)) {
		xm_family_unmap(f);
		*err = -EPROTO;
		return NULL;
	}
	return f;
}

void xm_family_unmap(struct xm_family *f)
{
	if (f)
		xm_sys_munmap(f, XM_FAM_BYTES);
}

/* ---- asking the keeper -------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* "@name:token" -> abstract address (its length returned) and token; -EINVAL */
static int parse_env(const char *env, struct sockaddr_un *addr, uint8_t token[16])
{
	const char *colon = env ? strrchr(env, ':') : NULL;
	size_t len;

	if (!colon || env[0] != '@' || strlen(colon + 1) != 32)
		return -EINVAL;
	len = (size_t)(colon - env);
	if (len < 2 || len > sizeof(addr->sun_path))
		return -EINVAL;
	for (int i = 0; i < 16; i++) {
		int hi = hex_digit(colon[1 + 2 * i]), lo = hex_digit(colon[2 + 2 * i]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		token[i] = (uint8_t)(hi << 4 | lo);
	}
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path + 1, env + 1, len - 1);
	return (int)(offsetof(struct sockaddr_un, sun_path) + len);
}

/* apart: from a child of vfork, whose descriptors are its own, while our table and the gate are its parent's */
static int call_keeper(const char *env, bool apart, enum xm_keeper_op op, uint32_t index, const char *text)
{
	struct timeval limit = { .tv_sec = JOIN_TIMEOUT_S };
	struct xm_keeper_request req = { .op = op, .index = index };
	struct sockaddr_un addr;
	int fd, len, ret;

	len = parse_env(env, &addr, req.token);
	if (len < 0)
		return len;
	if (text)
		xm_snprintf(req.text, sizeof(req.text), "%s", text);
	if (!apart)
		xm_fd_borrow();
	fd = xm_sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && !apart)
		fd = xm_fd_place(fd);
	if (!apart)
		xm_fd_return();
	if (fd < 0)
		return fd;
	xm_sys_setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	xm_sys_setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	do {
		ret = xm_sys_connect(fd, (struct sockaddr *)&addr, (socklen_t)len);
	} while (ret == -EINTR);
	if (!ret) {
		ssize_t n = xm_sys_send(fd, &req, sizeof(req), MSG_NOSIGNAL);

		ret = n == (ssize_t)sizeof(req) ? 0 : n < 0 ? (int)n : -EPROTO;
	}
	if (ret) {
		xm_sys_close(fd);
		return ret;
	}
	return fd;
}

int xm_keeper_call(const char *env, enum xm_keeper_op op, uint32_t index, const char *text)
{
	return call_keeper(env, false, op, index, text);
}

/* The one that came with n bytes, out of the program's way; -1. */
static int received_fd(struct msghdr *msg, ssize_t n)
{
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(msg) : NULL;
	int fd;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return xm_fd_place(fd);
}

int xm_keeper_receive(int sock, int *err)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl;
	struct xm_keeper_reply reply = { 0 };
	struct iovec iov = { &reply, sizeof(reply) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof(ctl)
	};
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	ssize_t n;
	int fd, ready;

	do {
		ready = xm_sys_poll(&pfd, 1, JOIN_TIMEOUT_S * 1000000000ull);
		xm_fd_borrow();
		n = xm_sys_recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		fd = received_fd(&msg, n);
		xm_fd_return();
	} while (n == -EINTR || (n == -EAGAIN && ready == -EINTR));
	if (n < 0)
		*err = n == -EAGAIN ? -ETIMEDOUT : (int)n;
	else if (n != (ssize_t)sizeof(reply))
		*err = -EPROTO;
	else if (reply.status)
		*err = reply.status;
	else if (fd < 0 || reply.version != XM_FAM_VERSION || reply.bytes != XM_FAM_BYTES)
		*err = -EPROTO;
	else
		return fd;
	if (fd >= 0)
		xm_sys_close(fd);
	return -1;
}

struct xm_family *xm_family_join(const char *env, int *err)
{
	struct xm_family *f = NULL;
	int sock, fd;

	sock = xm_keeper_call(env, XM_KEEPER_GET, 0, NULL);
	if (sock < 0) {
		*err = sock;
		return NULL;
	}
	fd = xm_keeper_receive(sock, err);
	if (fd >= 0) {
		f = xm_family_map(fd, true, err);
		xm_sys_close(fd);
	}
	xm_sys_close(sock);
	return f;
}

void xm_family_tell_keeper(const char *env, uint32_t index)
{
	int sock = xm_keeper_call(env, XM_KEEPER_JOIN, index, NULL);

	if (sock >= 0)
		xm_sys_close(sock);
}

void xm_family_tell_uncovered(const char *env, bool apart, const char *text)
{
	int sock = call_keeper(env, apart, XM_KEEPER_UNCOVERED, 0, text);

	if (sock >= 0)
		xm_sys_close(sock);
}

/* ---- process entries ---------------------------------------------------------------------------------- */

/* A pid of another namespace says nothing here and might name anybody: such owners sign with its negative and
 * are never replaced. */
bool xm_proc_lock(struct xm_family *f, struct xm_proc *p)
{
	int32_t me = xm_sys_getpid(), seen = 0;
	struct stat st;

	if (!f->pidns || stat("/proc/self/ns/pid", &st) != 0 || st.st_ino != f->pidns)
		me = -me;
	if (__atomic_compare_exchange_n(&p->owner, &seen, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return true;
	if (me < 0 || seen <= 0 || seen == me || !xm_pid_gone(seen))
		return false;
	return __atomic_compare_exchange_n(&p->owner, &seen, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void xm_proc_unlock(struct xm_proc *p)
{
	xm_store(&p->owner, 0);
}

static void raise_u32(uint32_t *level, uint32_t v)
{
	uint32_t seen = xm_load_relaxed(level);

	while (seen < v &&
	       !__atomic_compare_exchange_n(level, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

void xm_raise_u64(uint64_t *level, uint64_t v)
{
	uint64_t seen = xm_load_relaxed(level);

	while (seen < v &&
	       !__atomic_compare_exchange_n(level, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* Takes entry i when it is in state `from` (FREE or ENDED). */
static bool claim_entry(struct xm_family *f, uint32_t i, uint32_t from, const struct xm_procid *self)
{
	struct xm_proc *p = &f->proc[i];

	if (xm_load(&p->state) != from || !xm_proc_lock(f, p))
		return false;
	if (xm_load(&p->state) != from) {
		xm_proc_unlock(p);
		return false;
	}
	if (from == XM_PROC_ENDED) {
		xm_proc_stats_merge(&f->ended, &p->stats);
		xm_add(&f->ended_procs, 1);
	}
	memset(&p->stats, 0, sizeof(p->stats));
	p->pid = (int32_t)(self->pid ? self->pid : (uint32_t)xm_sys_getpid());
	p->ppid = 0;
	p->start_time = self->start_time;
	p->flags = self->pidns == f->pidns ? 0 : XM_PROC_FOREIGN;
	p->exe_dev = p->exe_ino = 0;
	p->joined_ns = xm_now_ns();
	p->ended_ns = 0;
	p->pt_pages_high = p->resident = p->committed = 0;
	p->comm[0] = p->exe[0] = 0;
	raise_u32(&f->procs_high, i + 1);
	xm_store(&p->state, XM_PROC_STARTING);
	xm_proc_unlock(p);
	return true;
}

int xm_family_proc_claim(struct xm_family *f)
{
	static const uint32_t from[] = { XM_PROC_FREE, XM_PROC_ENDED, XM_PROC_ENDED };
	struct xm_procid self;

	xm_procid_self(&self);
	for (unsigned round = 0; round < XM_ARRAY_SIZE(from); round++) {
		if (round == 2 && xm_family_reap_dead(f) == 0)
			break;
		for (uint32_t i = 0; i < XM_MAX_PROCS; i++)
			if (claim_entry(f, i, from[round], &self))
				return (int)i;
	}
	return -EUSERS;
}

static void fill_names(struct xm_proc *p)
{
	struct stat st;
	long n;

	xm_sys5(SYS_prctl, 16 /* PR_GET_NAME */, p->comm, 0, 0, 0);
	p->comm[sizeof(p->comm) - 1] = 0;
	n = xm_sys4(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", p->exe, sizeof(p->exe) - 1);
	p->exe[n > 0 ? n : 0] = 0;
	if (stat("/proc/self/exe", &st) == 0) {
		p->exe_dev = st.st_dev;
		p->exe_ino = st.st_ino;
	}
}

static uint32_t count_live(struct xm_family *f)
{
	uint32_t n = 0, high = xm_load(&f->procs_high);

	for (uint32_t i = 0; i < high; i++)
		n += xm_load_relaxed(&f->proc[i].state) == XM_PROC_LIVE &&
		     !xm_load_relaxed(&f->proc[i].ended_ns);
	return n;
}

/* Entries of this very process from before an exec: their memory is gone. */
static void drop_former_images(struct xm_family *f, uint32_t index)
{
	struct xm_proc *me = &f->proc[index];
	uint32_t high = xm_load(&f->procs_high);

	for (uint32_t i = 0; i < high; i++) {
		struct xm_proc *p = &f->proc[i];

		if (i != index && xm_load(&p->state) == XM_PROC_LIVE && p->pid == me->pid &&
		    p->start_time == me->start_time && me->start_time)
			xm_family_reap_image(f, i);
	}
}

/* An exec ended a thread that held a lock of the family: the process lives on as its owner. A pid of another namespace
 * might be anybody's. */
void xm_family_unlock_all_of(struct xm_family *f, int32_t pid)
{
	uint32_t high = xm_load(&f->procs_high);
	int32_t seen = pid;

	__atomic_compare_exchange_n(&f->grow_owner, &seen, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < high; i++) {
		seen = pid;
		__atomic_compare_exchange_n(&f->proc[i].owner, &seen, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
}

int xm_family_proc_live(struct xm_family *f, uint32_t index)
{
	struct xm_proc *p = &f->proc[index];
	uint32_t seen = XM_PROC_STARTING;
	struct xm_procid self;

	xm_procid_self(&self);
	if (self.pid && self.pidns == f->pidns) /* no other thread of this image is in here yet */
		xm_family_unlock_all_of(f, (int32_t)self.pid);
	/* who reaps holds the lock while it looks: an entry is either reaped or goes live */
	for (int spins = 0; !xm_proc_lock(f, p); spins++) {
		if (xm_load(&p->state) != XM_PROC_STARTING)
			return -ESTALE;
		if (spins < 1000)
			xm_cpu_relax();
		else
			xm_sys_sleep(1000000);
	}
	if (xm_load(&p->state) != XM_PROC_STARTING) {
		xm_proc_unlock(p);
		return -ESTALE;
	}
	p->pid = (int32_t)(self.pid ? self.pid : (uint32_t)xm_sys_getpid());
	p->ppid = (int32_t)xm_sys0(SYS_getppid);
	p->start_time = self.start_time;
	p->flags = self.pidns == f->pidns ? 0 : XM_PROC_FOREIGN;
	p->joined_ns = xm_now_ns();
	p->ended_ns = 0;
	fill_names(p);
	__atomic_compare_exchange_n(&p->state, &seen, XM_PROC_LIVE, false, __ATOMIC_ACQ_REL,
				    __ATOMIC_RELAXED);
	xm_proc_unlock(p);
	raise_u32(&f->procs_live_max, count_live(f));
	drop_former_images(f, index);
	return 0;
}

/* ---- charges against --size --------------------------------------------------------------------------- */

/* The family's sum is raised first and lowered last: a process killed in between leaves it too high by one
 * call, never too low. */
int xm_family_commit(struct xm_family *f, uint32_t index, uint64_t pages)
{
	uint64_t seen = xm_load(&f->committed_pages), limit = xm_load(&f->commit_limit_pages);

	do {
		if (pages > limit || seen > limit - pages)
			return -ENOMEM;
	} while (!__atomic_compare_exchange_n(&f->committed_pages, &seen, seen + pages, true,
					      __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	xm_add(&f->proc[index].committed, pages);
	xm_raise_u64(&f->committed_pages_max, seen + pages);
	return 0;
}

void xm_family_uncommit(struct xm_family *f, uint32_t index, uint64_t pages)
{
	uint64_t own = xm_sub_to_zero(&f->proc[index].committed, pages);

	xm_sub_to_zero(&f->committed_pages, own);
}
