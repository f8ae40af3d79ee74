/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper_appliance.c - the appliances of a family: a private one where none was named, a session with each that
 * lasts as long as the keeper, and the first slabs in the book of slots before any program asks for memory.
 * Runs on the keeper's only thread (the private appliance's start also in xmem-run --check); may block while
 * it starts, and for at most the peers' connect timeout afterwards.
 */
#include "runtime/keeper_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "link/rdma_sysfs.h"
#include "log.h"
#include "units.h"

extern char **environ;

#define READY_MS 60000
#define STOP_MS 5000
#define CONNECT_NS 3000000000ull
#define FIRST_SLABS_MAX 4

/* ---- the private appliance ---------------------------------------------------------------------------- */

/* The appliance is no member: without what would make it one. */
static void clean_environment(void)
{
	unsetenv(XM_ENV_FAMILY);
	unsetenv("LD_PRELOAD");
}

static void run_appliance(const char *program, const char *uri, uint64_t bytes, int ready, int log,
			  pid_t parent)
{
	char memory[32], ready_text[16];
	const char *argv[] = { "xmem-appliance", "--listen", uri,	    "--memory", memory,
			       "--ready-fd",	 ready_text, "--log-level", "warn",	NULL };
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(log, 2);
	fcntl(ready, F_SETFD, 0);
	xm_snprintf(memory, sizeof(memory), "%llu", (unsigned long long)bytes);
	xm_snprintf(ready_text, sizeof(ready_text), "%d", ready);
	clean_environment();
	execv(program, (char **)(uintptr_t)argv);
	xm_log_set_fd(2);
	xm_err("cannot execute %s: %s", program, xm_strerror(errno));
	_exit(127);
}

/* What it said while it failed to start becomes part of our own line. */
static void last_words(int log_fd, char *text, size_t size)
{
	ssize_t n = read(log_fd, text, size - 1);

	text[n > 0 ? n : 0] = 0;
	text[strcspn(text, "\n")] = 0;
}

static int await_listening(const char *program, struct xm_private_appliance *a, int ready, char *why)
{
	struct pollfd p = { .fd = ready, .events = POLLIN };
	char byte, words[160];
	int n;

	do {
		n = poll(&p, 1, READY_MS);
	} while (n < 0 && errno == EINTR);
	if (n == 1 && read(ready, &byte, 1) == 1)
		return 0;
	if (n == 0) {
		xm_snprintf(why, 256, "%.100s: not ready after %d s", program, READY_MS / 1000);
		return -ETIMEDOUT;
	}
	fcntl(a->log_fd, F_SETFL, 0);
	last_words(a->log_fd, words, sizeof(words));
	xm_snprintf(why, 256, "%.90s did not start%s%.140s", program, words[0] ? ": " : "", words);
	return -EIO;
}

int xm_private_appliance_start(const char *program, uint64_t bytes, struct xm_private_appliance *a, char *why)
{
	int ready[2] = { -1, -1 }, log[2] = { -1, -1 }, ret = 0;
	unsigned long salt = 0;
	pid_t self = getpid();

	memset(a, 0, sizeof(*a));
	a->log_fd = a->pidfd = -1;
	if (access(program, X_OK)) {
		xm_snprintf(why, 256, "%.180s: %s (install it beside xmem-run, or name one with --appliance)",
			    program, xm_strerror(errno));
		return -ENOENT;
	}
	if (getrandom(&salt, sizeof(salt), 0) < 0)
		salt = (unsigned long)xm_now_ns();
	xm_snprintf(a->uri, sizeof(a->uri), "shm:@xmem-appliance-%d-%lx", self, salt);
	if (pipe2(ready, O_CLOEXEC) || pipe2(log, O_CLOEXEC)) {
		ret = -errno;
		goto failed;
	}
	a->pid = fork();
	if (a->pid == 0)
		run_appliance(program, a->uri, bytes, ready[1], log[1], self);
	if (a->pid < 0) {
		ret = -errno;
		goto failed;
	}
	close(ready[1]);
	close(log[1]);
	ready[1] = log[1] = -1;
	fcntl(log[0], F_SETFL, O_NONBLOCK);
	a->log_fd = log[0];
	a->pidfd = (int)syscall(SYS_pidfd_open, a->pid, 0);
	ret = await_listening(program, a, ready[0], why);
	close(ready[0]);
	if (ret)
		xm_private_appliance_stop(a);
	return ret;
failed:
	xm_snprintf(why, 256, "cannot start a private appliance: %s", xm_strerror(ret));
	for (int i = 0; i < 2; i++) {
		if (ready[i] >= 0)
			close(ready[i]);
		if (log[i] >= 0)
			close(log[i]);
	}
	a->pid = 0;
	return ret;
}

void xm_private_appliance_stop(struct xm_private_appliance *a)
{
	struct pollfd p = { .fd = a->pidfd, .events = POLLIN };

	if (a->pid <= 0)
		return;
	kill(a->pid, SIGTERM);
	if (a->log_fd >= 0)
		close(a->log_fd);
	if (a->pidfd < 0 || poll(&p, 1, STOP_MS) != 1)
		kill(a->pid, SIGKILL);
	waitpid(a->pid, NULL, 0);
	if (a->pidfd >= 0)
		close(a->pidfd);
	a->pid = 0;
	a->log_fd = a->pidfd = -1;
}

void keeper_relay_log(struct keeper *k)
{
	struct pollfd out = { .fd = 2, .events = POLLOUT };
	char text[1024];
	ssize_t n = read(k->own.log_fd, text, sizeof(text));

	if (n > 0) {
		/* a reader that has stopped must not stop the keeper: its lines are lost then */
		if (poll(&out, 1, 0) == 1 && (out.revents & POLLOUT) && write(2, text, (size_t)n) < 0)
			return;
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(k->own.log_fd);
		k->own.log_fd = -1;
	}
}

void keeper_appliance_died(struct keeper *k)
{
	int st = 0;

	if (k->own.pid <= 0 || waitpid(k->own.pid, &st, WNOHANG) != k->own.pid)
		return;
	if (WIFSIGNALED(st))
		xm_err("the private appliance (pid %d) was killed by signal %d: pages that were only there are lost",
		       k->own.pid, WTERMSIG(st));
	else
		xm_err("the private appliance (pid %d) ended with status %d: pages that were only there are lost",
		       k->own.pid, WEXITSTATUS(st));
	close(k->own.pidfd);
	k->own.pidfd = -1;
	k->own.pid = 0;
}

static int start_own(struct keeper *k)
{
	struct xm_family_config *cfg = &k->f->cfg;
	char why[256];
	int ret = xm_private_appliance_start(k->setup->appliance_program, k->setup->private_bytes, &k->own,
					     why);

	if (ret) {
		xm_err("%s", why);
		return ret;
	}
	xm_snprintf(cfg->appliance[0].uri, sizeof(cfg->appliance[0].uri), "%s", k->own.uri);
	cfg->appliances = 1;
	ret = keeper_poll_add(k, k->own.log_fd, EV_APPLIANCE_LOG, 0);
	if (!ret && k->own.pidfd >= 0)
		ret = keeper_poll_add(k, k->own.pidfd, EV_APPLIANCE, 0);
	return ret;
}

/* ---- sessions ----------------------------------------------------------------------------------------- */

/* What would stop a member when it opens its links stops the command now. Handlers and the reclaim thread have one each. */
static int check_links(struct keeper *k, uint32_t i)
{
	struct xm_family_appliance *a = &k->f->appliance[i];
	char why[256] = "";
	int ret = xm_peer_check(k->peer[i], xm_max(k->f->cfg.handlers, 2u) + 1, XM_STAGING_BYTES, &a->path, why);

	if (ret < 0)
		xm_err("%s", why[0] ? why : xm_strerror(ret));
	else if (ret)
		xm_warn("%s (pages are copied once more)", why);
	if (a->path.device[0])
		k->retries_before[i] = xm_rdma_retries(a->path.device, (int)a->path.port);
	return xm_min(ret, 0);
}

static int open_peer(struct keeper *k, uint32_t i)
{
	struct xm_family_config *cfg = &k->f->cfg;
	struct xm_peer_config pc = { .uri = cfg->appliance[i].uri,
				     .client_name = "xmem-keeper",
				     .connect_timeout_ns = CONNECT_NS,
				     .lost_timeout_ns = cfg->lost_timeout_ns };
	struct xm_peer_info info;
	char why[256] = "";
	int ret = xm_peer_open(&pc, &k->peer[i], why);

	if (ret) {
		k->peer[i] = NULL;
		xm_err("%s", why[0] ? why : xm_strerror(ret));
		return ret;
	}
	xm_peer_info(k->peer[i], &info);
	cfg->appliance[i].session = info.session;
	return check_links(k, i);
}

static void ask(struct keeper *k, uint32_t i)
{
	struct xm_family_appliance *a = &k->f->appliance[i];
	struct xm_appliance_stat st;

	if (!k->peer[i])
		return;
	a->status = xm_peer_appliance_stat(k->peer[i], &st);
	if (!a->status)
		a->stat = st;
	a->asked_ns = xm_now_ns();
	if (a->path.device[0]) {
		int64_t now = xm_rdma_retries(a->path.device, (int)a->path.port);

		xm_store(&a->retries, now < 0 ? -1 : now - k->retries_before[i]);
	}
	xm_store(&a->valid, 1);
}

void keeper_ask_appliances(struct keeper *k)
{
	uint64_t start = xm_now_ns();

	if (start < k->ask_after_ns)
		return;
	for (uint32_t i = 0; i < k->f->cfg.appliances; i++)
		ask(k, i);
	/* members that join wait meanwhile: leave a slow appliance alone */
	if (xm_now_ns() - start > 500000000ull)
		k->ask_after_ns = xm_now_ns() + 30000000000ull;
}

void keeper_tick_appliances(struct keeper *k)
{
	for (uint32_t i = 0; i < k->f->cfg.appliances; i++)
		if (k->peer[i])
			xm_peer_tick(k->peer[i]);
}

/* ---- the first region --------------------------------------------------------------------------------- */

static void register_slabs(struct xm_family *f, uint32_t appliance, const struct xm_region_info *info)
{
	uint64_t slab_bytes = info->size_bytes / xm_max(info->slabs, 1ull);

	f->region_id[appliance] = info->id;
	for (uint64_t i = 0; i < info->slabs; i++) {
		uint32_t n = f->nslabs;
		struct xm_slab_desc *d = &f->slab[n];

		d->appliance = (uint16_t)appliance;
		d->index = (uint32_t)i;
		d->slots = (uint32_t)xm_min(slab_bytes >> XM_PAGE_SHIFT, (uint64_t)XM_SLAB_SLOTS_MAX);
		d->region = info->id;
		d->free = d->slots;
		d->hint = 0;
		xm_store(&d->state, XM_SLAB_POOL);
		xm_store(&f->nslabs, n + 1);
	}
}

/* Enough for the first budget to be evicted once, within 1..4 slabs: a short command should not pay for more. */
static int first_region(struct keeper *k)
{
	struct xm_region_info info;
	int ret = -ENOLINK;

	for (uint32_t i = 0; i < k->f->cfg.appliances; i++) {
		uint64_t slab = xm_max(k->f->appliance[i].stat.slab_bytes, XM_PAGE_SIZE);
		uint64_t want = xm_min(k->f->cfg.budget_bytes / slab + 1, (uint64_t)FIRST_SLABS_MAX);

		ret = xm_peer_region_create(k->peer[i], want * slab, "", 0, &info);
		if (ret == -ENOMEM && want > 1)
			ret = xm_peer_region_create(k->peer[i], slab, "", 0, &info);
		if (ret == 0) {
			register_slabs(k->f, i, &info);
			return 0;
		}
		if (i + 1 < k->f->cfg.appliances)
			xm_warn("%s: no region: %s; the next appliance is used", k->f->cfg.appliance[i].uri,
				xm_strerror(ret));
	}
	xm_err("%s: no region for this command: %s%s", k->f->cfg.appliance[k->f->cfg.appliances - 1].uri,
	       xm_strerror(ret),
	       ret == -ENOMEM
		       ? " (the appliance has no free slab: give it more --memory, or end other clients)"
		       : "");
	return ret;
}

/* ---- the way of the pages ----------------------------------------------------------------------------- */

/* Reads the first page of the region. */
static int read_page(struct xm_link *l, uint64_t region)
{
	static uint8_t page[XM_PAGE_SIZE];
	struct xm_completion c = { .status = -ETIMEDOUT };
	int ret = l->ops->read(l, page, sizeof(page), region, 0, 0);

	if (ret)
		return ret;
	l->ops->flush(l);
	l->ops->wait(l, CONNECT_NS);
	l->ops->poll(l, &c, 1);
	return c.status;
}

/* Over verbs pages take another way than control messages: a command that could not use it must not start. That links
 * can be opened is known (check_links); that something is behind them is not. */
static int try_link(struct keeper *k, uint32_t i)
{
	const char *uri = k->f->cfg.appliance[i].uri;
	struct xm_link *l;
	int ret;

	if (strncmp(uri, "verbs:", 6) != 0)
		return 0;
	ret = xm_link_open(k->peer[i], &l); /* says why not */
	if (ret)
		return ret;
	if (k->f->region_id[i])
		ret = read_page(l, k->f->region_id[i]);
	if (ret)
		xm_err("%s: connected, but its memory cannot be read over RDMA: %s", uri, xm_strerror(ret));
	l->ops->close(l);
	return ret;
}

static void set_commit_limit(struct keeper *k)
{
	struct xm_family *f = k->f;
	uint64_t offered = f->cfg.budget_bytes;
	char have[32], want[32];

	for (uint32_t i = 0; i < f->cfg.appliances; i++)
		offered += f->appliance[i].stat.free_bytes;
	if (!f->cfg.size_bytes)
		xm_store(&f->commit_limit_pages, offered >> XM_PAGE_SHIFT);
	else if (f->cfg.size_bytes > offered)
		xm_warn("--size %s is more than the appliances' free memory and --local together (%s): give less, or more "
			"appliances",
			xm_format_size(f->cfg.size_bytes, want, sizeof(want)),
			xm_format_size(offered, have, sizeof(have)));
}

int keeper_open_appliances(struct keeper *k)
{
	int ret = 0;

	k->own.log_fd = k->own.pidfd = -1;
	if (!k->f->cfg.appliances)
		ret = start_own(k);
	for (uint32_t i = 0; i < k->f->cfg.appliances && !ret; i++)
		ret = open_peer(k, i);
	if (ret)
		return ret;
	keeper_ask_appliances(k);
	set_commit_limit(k);
	ret = first_region(k);
	for (uint32_t i = 0; i < k->f->cfg.appliances && !ret; i++)
		ret = try_link(k, i);
	return ret;
}

void keeper_close_appliances(struct keeper *k)
{
	for (uint32_t i = 0; i < XM_MAX_APPLIANCES; i++) {
		xm_peer_close(k->peer[i]);
		k->peer[i] = NULL;
	}
	xm_private_appliance_stop(&k->own);
}
