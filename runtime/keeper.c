/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.c - the keeper's life, and xmem-run's handle on it.
 *
 *   start: appliances reached, first region in the book, socket listening   --READY-->   xmem-run
 *   serve: requests; members watched by pidfd, reaped when dead; a look at everything each second
 *   end:   the command has ended AND no member lives: sessions left, private appliance stopped
 *
 * One process, one thread. It is in a session of its own and ignores the signals of terminals and of orderly
 * shutdowns (TERM included: members must be able to end first; it ends by itself right after them). It survives
 * xmem-run: then only its standard error goes, because a reader of that pipe must see its end when the command
 * and xmem-run are gone, whatever a daemonised member still needs the keeper for. Standard input and output, and
 * every other descriptor of the caller, are given up at the start for the same reason.
 * Deliberately not here: growing the pool during the run (the members do that themselves).
 */
#include "runtime/keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "procid.h"
#include "runtime/family_internal.h"
#include "runtime/keeper_internal.h"
#include "runtime/stats.h"
#include "sys.h"

#define TICK_NS 1000000000ull
#define END_WAIT_MS 15000 /* stopping an appliance is bounded by 10 s */

static struct keeper the_keeper; /* 30 KiB: not on the stack */

int keeper_poll_add(struct keeper *k, int fd, enum keeper_event kind, uint32_t index)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | index };

	return epoll_ctl(k->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int send_note(int fd, enum keeper_note_kind kind, int32_t value)
{
	struct keeper_note note = { kind, value };

	return send(fd, &note, sizeof(note), MSG_NOSIGNAL) == (ssize_t)sizeof(note) ? 0 : -errno;
}

/* ---- members ------------------------------------------------------------------------------------------ */

static void unwatch(struct keeper *k, uint32_t i)
{
	if (k->watch[i].fd >= 0)
		close(k->watch[i].fd);
	k->watch[i].fd = -1;
}

void keeper_watch(struct keeper *k, uint32_t i)
{
	struct xm_proc *p = &k->f->proc[i];
	int fd;

	if (xm_load(&p->state) != XM_PROC_LIVE || (xm_load(&p->flags) & XM_PROC_FOREIGN)) {
		unwatch(k, i);
		return;
	}
	if (k->watch[i].fd >= 0 && k->watch[i].pid == p->pid && k->watch[i].start_time == p->start_time)
		return;
	unwatch(k, i);
	fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (fd < 0)
		return; /* dead, or out of descriptors: the scan finds it */
	k->watch[i].fd = fd;
	k->watch[i].pid = p->pid;
	k->watch[i].start_time = p->start_time;
	/* the pid may be somebody else's by now */
	if (xm_family_proc_dead(k->f, i) || keeper_poll_add(k, fd, EV_MEMBER, i))
		unwatch(k, i);
}

/* Whether the process /proc/NAME calls itself `pid` in an inner namespace and started at that time */
static bool is_foreign(const char *name, int32_t pid, const struct xm_procid *self, uint64_t start_time)
{
	struct xm_procid id = *self;
	char path[64], text[4096], *line, *last;
	ssize_t n;
	int fd;

	xm_snprintf(path, sizeof(path), "/proc/%.20s/status", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	line = strstr(text, "\nNSpid:");
	if (!line)
		return false;
	line[1 + strcspn(line + 1, "\n")] = 0;
	last = strrchr(line, '\t');
	if (!last || strchr(line, '\t') == last || atoi(last + 1) != pid)
		return false;
	id.pid = (uint32_t)atoi(name);
	id.start_time = start_time;
	return xm_procid_check(self, &id) == XM_PROC_ALIVE;
}

/* The pid, as known here, of a process that named itself with a pid of another namespace. 0: there is none;
 * -1: cannot be known (processes of others are hidden). */
static int32_t find_foreign(const struct xm_proc *p)
{
	struct xm_procid self;
	struct dirent *e;
	int32_t found = 0;
	DIR *d;

	xm_procid_self(&self);
	d = access("/proc/1/status", R_OK) == 0 && p->start_time && self.pid ? opendir("/proc") : NULL;
	if (!d)
		return -1;
	while (!found && (e = readdir(d)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9' &&
		    is_foreign(e->d_name, p->pid, &self, p->start_time))
			found = atoi(e->d_name);
	closedir(d);
	return found;
}

/* True when the process lives but runs another program now, one that does not use the family: its image in the
 * entry is gone. The file alone would not do (it may have been replaced), so the memory map must agree. */
static bool image_replaced(struct xm_proc *p)
{
	char path[64], text[4096 + 32];
	size_t keep = 0;
	struct stat st;
	bool uses = false;
	ssize_t n;
	int fd;

	xm_snprintf(path, sizeof(path), "/proc/%d/exe", p->pid);
	if (!p->exe_ino || stat(path, &st) != 0 || (st.st_ino == p->exe_ino && st.st_dev == p->exe_dev))
		return false;
	xm_snprintf(path, sizeof(path), "/proc/%d/maps", p->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	while (!uses && (n = read(fd, text + keep, sizeof(text) - 1 - keep)) > 0) {
		keep += (size_t)n;
		text[keep] = 0;
		uses = strstr(text, "memfd:xmem-family") != NULL;
		/* the name may lie across two reads */
		if (keep > 24) {
			memmove(text, text + keep - 24, 24);
			keep = 24;
		}
	}
	close(fd);
	return !uses && n == 0;
}

/* Looks at every entry: reaps the dead, watches the new. */
static void scan(struct keeper *k)
{
	uint32_t high = xm_load(&k->f->procs_high);

	for (uint32_t i = 0; i < high && i < XM_MAX_PROCS; i++) {
		struct xm_proc *p = &k->f->proc[i];
		uint32_t state = xm_load(&p->state);

		if (state == XM_PROC_LIVE && (xm_load(&p->flags) & XM_PROC_FOREIGN)) {
			int32_t pid = find_foreign(p);

			if (pid == 0)
				xm_family_reap_image(k->f, i);
			if (pid <= 0)
				continue;
			p->pid = pid;
			__atomic_and_fetch(&p->flags, ~(uint32_t)XM_PROC_FOREIGN, __ATOMIC_ACQ_REL);
		}
		if (state != XM_PROC_FREE && state != XM_PROC_ENDED && !xm_family_reap(k->f, i) &&
		    state == XM_PROC_LIVE && image_replaced(p))
			xm_family_reap_image(k->f, i);
		keeper_watch(k, i);
	}
	xm_family_true_up(k->f);
	xm_raise_u64(&k->f->external_pages_max, xm_stats_external_pages(k->f));
}

static int members_alive(struct keeper *k)
{
	uint32_t high = xm_load(&k->f->procs_high);
	int n = 0;

	for (uint32_t i = 0; i < high && i < XM_MAX_PROCS; i++) {
		uint32_t state = xm_load(&k->f->proc[i].state);

		/* a claimed entry is somebody's child to be, even when the parent has just died */
		n += state == XM_PROC_STARTING || (state == XM_PROC_LIVE && !xm_family_proc_dead(k->f, i));
	}
	return n;
}

static void member_event(struct keeper *k, uint32_t i)
{
	xm_raise_u64(&k->f->external_pages_max, xm_stats_external_pages(k->f));
	unwatch(k, i);
	/* false while the entry's slots rest (reap_grace_ns): the scan comes back to it */
	xm_family_reap(k->f, i);
}

/* ---- xmem-run ----------------------------------------------------------------------------------------- */

static void lose_xmem_run(struct keeper *k)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	close(k->control);
	k->control = -1;
	if (null >= 0) {
		dup2(null, 2);
		close(null);
	}
	/* it died before it could start anything */
	if (!k->command_known)
		k->command_over = true;
}

void keeper_name_command(struct keeper *k)
{
	char path[32], name[sizeof(k->f->command)];
	ssize_t n = -1;
	int fd;

	if (k->command_fd < 0)
		return;
	xm_snprintf(path, sizeof(path), "/proc/%d/comm", (int)k->command_pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	n = read(fd, name, sizeof(name) - 1);
	close(fd);
	if (n <= 0)
		return;
	name[n] = 0;
	name[strcspn(name, "\n")] = 0;
	memcpy(k->f->command, name, sizeof(name));
}

static void control_event(struct keeper *k)
{
	struct keeper_note note;
	ssize_t n = recv(k->control, &note, sizeof(note), 0);

	if (n != (ssize_t)sizeof(note)) {
		if (n >= 0 || (errno != EINTR && errno != EAGAIN))
			lose_xmem_run(k);
		return;
	}
	if (note.kind == NOTE_COMMAND) {
		k->command_known = true;
		k->command_pid = note.value;
		k->command_fd = (int)syscall(SYS_pidfd_open, note.value, 0);
		/* a short command may be gone already; xmem-run says when it is over, see serve() for its death */
		if (k->command_fd >= 0 && keeper_poll_add(k, k->command_fd, EV_COMMAND, 0)) {
			close(k->command_fd);
			k->command_fd = -1;
		}
	} else if (note.kind == NOTE_FINISH) {
		k->command_over = true;
		k->finishing = true;
	}
}

static void command_event(struct keeper *k)
{
	close(k->command_fd);
	k->command_fd = -1;
	/* while xmem-run lives it says so itself: it may still want the figures */
	if (k->control < 0)
		k->command_over = true;
}

static void dispatch(struct keeper *k, uint64_t data)
{
	uint32_t index = (uint32_t)data;

	switch ((enum keeper_event)(data >> 32)) {
	case EV_CONTROL:
		if (k->control >= 0)
			control_event(k);
		break;
	case EV_LISTEN: keeper_accept(k); break;
	case EV_COMMAND:
		if (k->command_fd >= 0)
			command_event(k);
		break;
	case EV_MEMBER:
		if (k->watch[index].fd >= 0)
			member_event(k, index);
		break;
	case EV_CLIENT: keeper_client(k, index); break;
	case EV_APPLIANCE: keeper_appliance_died(k); break;
	case EV_APPLIANCE_LOG: keeper_relay_log(k); break;
	}
}

/* xmem-run's question what is left; it may be gone again by the answer */
static void answer_finish(struct keeper *k)
{
	k->finishing = false;
	keeper_hear(k); /* what the command's processes executed is in the figures */
	scan(k);
	keeper_ask_appliances(k);
	if (k->control >= 0)
		send_note(k->control, NOTE_FINISHED, members_alive(k));
}

static void serve(struct keeper *k)
{
	uint64_t tick = xm_now_ns() + TICK_NS;
	struct epoll_event ev[64];
	bool done = false;

	while (!done) {
		uint64_t now = xm_now_ns();
		int ms = now >= tick ? 0 : (int)((tick - now) / 1000000 + 1);
		int n = epoll_wait(k->epoll, ev, XM_ARRAY_SIZE(ev), ms);

		for (int i = 0; i < n; i++)
			dispatch(k, ev[i].data.u64);
		/* the command may have ended after xmem-run died */
		if (k->control < 0 && k->command_known && k->command_fd < 0)
			k->command_over = true;
		if (k->finishing)
			answer_finish(k);
		if (xm_now_ns() >= tick) {
			tick = xm_now_ns() + TICK_NS;
			scan(k);
			keeper_tick_appliances(k);
			if (keeper_clients_tick(k)) {
				keeper_name_command(k);
				keeper_ask_appliances(k);
			}
		}
		done = k->command_over && !k->finishing && members_alive(k) == 0;
	}
}

/* ---- start -------------------------------------------------------------------------------------------- */

static void leave_terminal(void)
{
	static const int ignored[] = { SIGHUP,	SIGINT,	 SIGQUIT, SIGTERM, SIGPIPE, SIGALRM,
				       SIGUSR1, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU };
	sigset_t none;

	setsid();
	for (size_t i = 0; i < XM_ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "xmem-keeper", 0, 0, 0);
	/* hold no file system that somebody wants to unmount */
	if (chdir("/") != 0)
		xm_debug("keeper: chdir /: %s", xm_strerror(errno));
}

static void leave_descriptors(int keep_a, int keep_b)
{
	int low = xm_min(keep_a, keep_b), high = xm_max(keep_a, keep_b);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct rlimit files;

	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
	}
	if (low > 3)
		syscall(SYS_close_range, 3, low - 1, 0);
	if (high > low + 1)
		syscall(SYS_close_range, low + 1, high - 1, 0);
	syscall(SYS_close_range, high + 1, ~0u, 0);
	/* one descriptor a member */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int start(struct keeper *k, const char *name)
{
	int ret;

	k->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (k->epoll < 0) {
		xm_err("keeper: epoll: %s", xm_strerror(errno));
		return -errno;
	}
	ret = keeper_open_appliances(k);
	if (ret)
		return ret;
	ret = keeper_listen(k, name);
	if (ret)
		return ret;
	return keeper_poll_add(k, k->control, EV_CONTROL, 0);
}

static void keeper_main(struct keeper *k, const char *name)
{
	int ret;

	leave_terminal();
	leave_descriptors(k->control, k->obj_fd);
	k->f->keeper_pid = getpid();
	ret = start(k, name);
	if (!ret) {
		k->command_over = send_note(k->control, NOTE_READY, 0) != 0;
		serve(k);
	}
	keeper_close_appliances(k);
	_exit(ret ? 1 : 0);
}

static void hex(const uint8_t *bytes, int n, char *out)
{
	for (int i = 0; i < n; i++)
		xm_snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* READY, or the keeper's end; it bounds its own start. */
static int await_ready(struct xm_keeper *out)
{
	struct keeper_note note;
	ssize_t n;
	int status = 0;

	do {
		n = recv(out->control, &note, sizeof(note), 0);
	} while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(note) && note.kind == NOTE_READY)
		return 0;
	waitpid(out->pid, &status, 0);
	if (WIFSIGNALED(status))
		xm_err("the keeper process was killed by signal %d at its start", WTERMSIG(status));
	return -EIO;
}

int xm_keeper_start(const struct xm_keeper_setup *setup, struct xm_keeper *out)
{
	struct keeper *k = &the_keeper;
	int pair[2] = { -1, -1 }, ret = 0;
	uint8_t salt[6];
	char name[64], text[33];

	memset(out, 0, sizeof(*out));
	memset(k, 0, sizeof(*k));
	for (int i = 0; i < XM_MAX_PROCS; i++)
		k->watch[i].fd = -1;
	for (int i = 0; i < KEEPER_CLIENTS; i++)
		k->client[i].fd = -1;
	k->command_fd = k->listen_fd = -1;
	k->setup = setup;
	if (getrandom(k->token, sizeof(k->token), 0) != (ssize_t)sizeof(k->token) ||
	    getrandom(salt, sizeof(salt), 0) != (ssize_t)sizeof(salt)) {
		xm_err("getrandom: %s", xm_strerror(errno));
		return -EIO;
	}
	k->f = xm_family_create(&setup->cfg, &k->obj_fd, &ret);
	if (!k->f) {
		xm_err("cannot make the family's shared memory: %s%s", xm_strerror(ret),
		       ret == -EFBIG	? " (lift the file size limit: ulimit -f unlimited)"
		       : ret == -ENOMEM ? " (lift the address space limit: ulimit -v unlimited)"
					: "");
		return ret;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		ret = -errno;
		goto unmap;
	}
	hex(salt, sizeof(salt), text);
	xm_snprintf(name, sizeof(name), "xmem-%d-%s", getpid(), text);
	hex(k->token, sizeof(k->token), text);
	xm_snprintf(out->env, sizeof(out->env), "@%s:%s", name, text);
	out->family = k->f;
	out->control = pair[0];
	out->pid = fork();
	if (out->pid == 0) {
		k->control = pair[1];
		keeper_main(k, name);
	}
	if (out->pid < 0) {
		ret = -errno;
		goto pair;
	}
	close(pair[1]);
	pair[1] = -1;
	close(k->obj_fd);
	ret = await_ready(out);
	if (!ret)
		return 0;
	k->obj_fd = -1;
	goto quiet;
pair:
	xm_err("cannot start the keeper: %s", xm_strerror(ret));
quiet:
	close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
unmap:
	if (k->obj_fd >= 0)
		close(k->obj_fd);
	xm_family_unmap(k->f);
	out->family = NULL;
	return ret;
}

void xm_keeper_command(struct xm_keeper *k, pid_t command)
{
	send_note(k->control, NOTE_COMMAND, command);
}

int xm_keeper_finish(struct xm_keeper *k)
{
	struct keeper_note note;
	ssize_t n;
	int ret = send_note(k->control, NOTE_FINISH, 0);

	if (ret)
		return ret;
	do {
		n = recv(k->control, &note, sizeof(note), 0);
	} while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(note) && note.kind == NOTE_FINISHED ? note.value : -EPIPE;
}

void xm_keeper_wait(struct xm_keeper *k)
{
	struct pollfd p = { .events = POLLIN };

	/* not waitpid alone: it has no time limit */
	p.fd = (int)syscall(SYS_pidfd_open, k->pid, 0);
	if (p.fd >= 0) {
		poll(&p, 1, END_WAIT_MS);
		close(p.fd);
	}
	waitpid(k->pid, NULL, WNOHANG);
}
