/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-run.c - options, the order of things, and the statistics at the end. One thread; no locks.
 *
 *   options -> can the command be covered? -> keeper (appliances, family) -> command -> figures -> its status
 *
 * Every failure of its own is one line and exit status 125. After the keeper has started, a command that does
 * not come about ends the keeper by closing its control socket.
 */
#include "runtime/xmem-run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "link/inject.h"
#include "link/uri.h"
#include "log.h"
#include "runtime/policy/policy.h"
#include "runtime/stats.h"
#include "units.h"

static struct run_options opt = {
	.local_bytes = XM_RUN_UNSET,
	.size_bytes = XM_RUN_UNSET,
	.min_map_bytes = 256 << 10,
	.stall_ns = 10000000000ull,
	.lost_timeout_ns = 10000000000ull,
	.log_level = XM_LOG_WARN,
};

enum { FAULT_SIGNAL = 2 }; /* of these */
static const char *const fault_names[] = { "thread", "auto", "signal", NULL };
static const char *const level_names[] = { "error", "warn", "info", "debug", NULL };

static const struct xm_opt options[] = {
	{ "local", 'l', XM_OPT_SIZE, &opt.local_bytes, "SIZE",
	  "local memory for external pages, of the whole family (default 50% of memory; at least 4M)",
	  .percent_of = xm_machine_memory_bytes },
	{ "appliance", 'a', XM_OPT_LIST, &opt.appliances, "URI",
	  "shm:PATH or tcp:HOST:PORT; may be repeated (default: a private appliance on this host)",
	  .max = 0 },
	{ "size", 's', XM_OPT_SIZE, &opt.size_bytes, "SIZE",
	  "limit of external memory, local part included (default: --local plus what the appliances offer)",
	  .percent_of = xm_machine_memory_bytes },
	{ "min-map", 0, XM_OPT_SIZE, &opt.min_map_bytes, "SIZE",
	  "smallest anonymous mmap that becomes external, 4K to 1T (default 256K)", .min = 4096, .max = 1ull << 40 },
	{ "fault", 0, XM_OPT_ENUM, &opt.fault, "MODE",
	  "how faults are resolved: thread, signal, auto (default thread)", .names = fault_names },
	{ "evict", 0, XM_OPT_ENUM, &opt.evict, "NAME", "eviction policy: s3fifo, clock (default s3fifo)",
	  .names = xm_evict_names },
	{ "prefetch", 0, XM_OPT_ENUM, &opt.prefetch, "NAME",
	  "prefetch policy: majority, stride, none (default majority)", .names = xm_prefetch_names },
	{ "handlers", 0, XM_OPT_U64, &opt.handlers, "N",
	  "fault handler threads a process, 2 to 8 (default: 2, and up to 6 more while links are slow)", .min = 2, .max = 8 },
	{ "stall", 0, XM_OPT_TIME, &opt.stall_ns, "TIME",
	  "how long a page without room waits before SIGBUS (default 10s)", .max = 3600000000000ull },
	{ "lost-timeout", 0, XM_OPT_TIME, &opt.lost_timeout_ns, "TIME",
	  "how long a lost appliance is waited for (default 10s)", .max = 3600000000000ull },
	{ "stats", 0, XM_OPT_OPTIONAL_STRING, &opt.stats, "FILE",
	  "print statistics at the end, on stderr or to FILE (JSON when it ends in .json)", .max = 0 },
	{ "strict", 0, XM_OPT_FLAG, &opt.strict, NULL, "a command that cannot be covered is an error (125)",
	  .max = 0 },
	{ "check", 0, XM_OPT_FLAG, &opt.check, NULL, "say what this machine lacks, and run nothing",
	  .command_line_only = true },
	{ "verify", 0, XM_OPT_FLAG, &opt.verify, NULL,
	  "checksum every page, also over shm (default: not over shm)", .max = 0 },
	{ "log-level", 0, XM_OPT_ENUM, &opt.log_level, "LEVEL", "error, warn, info or debug (default warn)",
	  .names = level_names },
	{ "inject", 0, XM_OPT_STRING, &opt.inject, "SPEC",
	  "for tests: delays, errors, disconnects, corruption", .max = 0 },
	{ "mask", 0, XM_OPT_STRING, &opt.mask, "LIST",
	  "for tests: do without move, poison, wp, madvise_vec",
	  .max = 0 },
	{ .name = NULL },
};

static const struct xm_opt_program program = {
	.name = "xmem-run",
	.synopsis = "[OPTION]... [--] COMMAND [ARGUMENT]...\n       xmem-run --check",
	.summary =
		"Runs a command whose heap may be larger than the local memory it is allowed; the rest of its "
		"pages live on a memory appliance and come back when they are touched.",
	.epilog = "Sizes: 256M, 1.5G, or 25% of this machine's memory. Times: 500us, 10ms, 2.5s.\n"
		  "Settings with the same names are read from /etc/xmem/xmem-run.conf and\n"
		  "~/.config/xmem/xmem-run.conf; the command line wins.\n\n"
		  "  xmem-run --local 256M --stats -- redis-server --save ''\n"
		  "  xmem-run --local 25% --appliance tcp:10.0.0.7:7070 -- python3 job.py\n",
	.opts = options,
};

/* ---- where the parts are ------------------------------------------------------------------------------ */

/* the directory of this program; "" when unknown */
static void own_directory(char *dir)
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	char *slash;

	dir[n > 0 ? n : 0] = 0;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
	else
		dir[0] = 0;
}

static int first_of(char *path, const char *const *tails, int n, int mode)
{
	char dir[PATH_MAX], try[PATH_MAX + 64], missing[PATH_MAX] = "";

	own_directory(dir);
	for (int i = 0; i < n; i++) {
		xm_snprintf(try, sizeof(try), "%s/%s", dir, tails[i]);
		if (access(try, mode) == 0 && realpath(try, path))
			return 0;
		if (i == 0)
			xm_snprintf(missing, sizeof(missing), "%s", try);
	}
	xm_snprintf(path, PATH_MAX, "%s", missing);
	return -ENOENT;
}

int run_find_preload(char *path)
{
	static const char *const tails[] = { "libxmem-preload.so", "../lib/xmem/libxmem-preload.so" };
	const char *env = getenv("XMEM_PRELOAD");
	int ret = 0;

	if (!env || !*env) {
		ret = first_of(path, tails, 2, R_OK);
	} else if (!realpath(env, path) || access(path, R_OK) != 0) {
		xm_snprintf(path, PATH_MAX, "%s", env);
		ret = -ENOENT;
	}
	return ret || xm_cover_is_object(path) ? ret : -ENOEXEC;
}

int run_find_appliance(char *path)
{
	static const char *const tails[] = { "xmem-appliance", "../libexec/xmem/xmem-appliance",
					     "../sbin/xmem-appliance" };

	return first_of(path, tails, 3, X_OK);
}

/* ---- settings ----------------------------------------------------------------------------------------- */

static int parse_files(void)
{
	const char *home = getenv("HOME"), *config = getenv("XDG_CONFIG_HOME");
	char path[PATH_MAX];
	int ret = xm_opt_parse_file(&program, "/etc/xmem/xmem-run.conf");

	if (ret && ret != -ENOENT)
		return ret;
	if (config && *config)
		xm_snprintf(path, sizeof(path), "%s/xmem/xmem-run.conf", config);
	else if (home && *home)
		xm_snprintf(path, sizeof(path), "%s/.config/xmem/xmem-run.conf", home);
	else
		return 0;
	/* another user's HOME, as after a bare setuid: not this user's settings */
	if (access(path, R_OK) < 0 && errno == EACCES) {
		xm_warn("%s is left out: Permission denied (is HOME this user's?)", path);
		return 0;
	}
	ret = xm_opt_parse_file(&program, path);
	return ret == -ENOENT ? 0 : ret;
}

/* Files first, then the command line; appliances of the command line replace those of the files. */
static int parse_all(int argc, char **argv, int *first)
{
	struct xm_opt_list from_files;
	int ret = parse_files();

	if (ret)
		return ret;
	from_files = opt.appliances;
	opt.appliances.n = 0;
	ret = xm_opt_parse(&program, argc, argv, first);
	if (!ret && !opt.appliances.n)
		opt.appliances = from_files;
	return ret;
}

static int check_local(void)
{
	uint64_t ram = xm_machine_memory_bytes();
	char have[32], text[32];

	if (opt.local_bytes == XM_RUN_UNSET)
		opt.local_bytes = xm_max(ram / 2, XM_RUN_LOCAL_MIN);
	xm_format_size(opt.local_bytes, text, sizeof(text));
	if (opt.local_bytes < XM_RUN_LOCAL_MIN) {
		xm_err("--local: %s is below the minimum of 4 MiB: give --local 4M or more", text);
		return -EINVAL;
	}
	if (opt.local_bytes > ram) {
		xm_err("--local: %s is more than the memory of this machine or cgroup (%s): give at most that, or e.g. "
		       "--local 50%%",
		       text, xm_format_size(ram, have, sizeof(have)));
		return -EINVAL;
	}
	if (opt.size_bytes < XM_RUN_LOCAL_MIN) {
		xm_err("--size: %s is below the minimum of 4 MiB: give --size 4M or more, or leave it out",
		       xm_format_size(opt.size_bytes, text, sizeof(text)));
		return -EINVAL;
	}
	return 0;
}

/* What a private appliance can lend at most; only what is used is ever taken. */
static uint64_t private_max(void)
{
	return xm_max(xm_round_down(xm_machine_memory_bytes(), XM_SLAB_SIZE), XM_SLAB_SIZE);
}

/* --size where no appliance is named: after check_local. */
static int check_private_size(void)
{
	uint64_t local = xm_round_down(opt.local_bytes, XM_PAGE_SIZE), ram = xm_machine_memory_bytes();
	char have[32], text[32];

	if (opt.appliances.n || opt.size_bytes == XM_RUN_UNSET)
		return 0;
	if (opt.size_bytes > local + ram) {
		xm_err("--size: %s is more than --local and this machine's memory together (%s): give less, or name "
		       "appliances",
		       xm_format_size(opt.size_bytes, text, sizeof(text)),
		       xm_format_size(local + ram, have, sizeof(have)));
		return -EINVAL;
	}
	/* the rest of the machine's last slab is not lent */
	opt.size_bytes = xm_min(opt.size_bytes, local + private_max());
	return 0;
}

static int parse_mask(uint32_t *mask)
{
	static const struct {
		const char *name;
		uint32_t bit;
	} known[] = {
		{ "move", XM_FEAT_MOVE },
		{ "poison", XM_FEAT_POISON },
		{ "wp", XM_FEAT_WP },
		{ "madvise_vec", XM_FEAT_MADVISE_VEC },
	};
	const char *p = opt.mask ? opt.mask : getenv("XMEM_MASK");
	size_t len, i;

	for (*mask = 0; p && *p; p += len + (p[len] == ',')) {
		len = strcspn(p, ",");
		for (i = 0; i < XM_ARRAY_SIZE(known); i++)
			if (strlen(known[i].name) == len && strncmp(known[i].name, p, len) == 0)
				break;
		if (i == XM_ARRAY_SIZE(known)) {
			xm_err("--mask: '%.*s' is no feature (want move, poison, wp or madvise_vec)",
			       (int)xm_min(len, (size_t)60), p);
			return -EINVAL;
		}
		*mask |= known[i].bit;
	}
	return 0;
}

/* Members change their directory: a relative socket path is made absolute here. */
static int add_appliance(struct xm_family_config *cfg, const char *uri)
{
	char why[XM_WHY_MAX], dir[PATH_MAX], text[PATH_MAX + 256];
	struct xm_uri parsed;
	size_t room = sizeof(cfg->appliance[0].uri);
	int ret = xm_uri_parse(uri, &parsed, why);

	if (ret) {
		xm_err("--appliance: %s", why);
		return ret;
	}
	if (cfg->appliances == XM_MAX_APPLIANCES) {
		xm_err("--appliance: more than %d are named: leave some out", XM_MAX_APPLIANCES);
		return -EINVAL;
	}
	xm_snprintf(text, sizeof(text), "%s", uri);
	if (parsed.kind == XM_URI_SHM && parsed.path[0] != '/' && parsed.path[0] != '@' &&
	    getcwd(dir, sizeof(dir)))
		xm_snprintf(text, sizeof(text), "shm:%s/%s", dir, parsed.path);
	if (strlen(text) >= room || xm_uri_parse(text, &parsed, why)) {
		xm_err("--appliance: '%.80s...' is too long for a socket address", text);
		return -EINVAL;
	}
	memcpy(cfg->appliance[cfg->appliances++].uri, text, strlen(text) + 1);
	return 0;
}

static int check_appliance_twice(const struct xm_family_config *cfg)
{
	for (uint32_t i = 0; i < cfg->appliances; i++) {
		for (uint32_t j = 0; j < i; j++) {
			if (strcmp(cfg->appliance[i].uri, cfg->appliance[j].uri) == 0) {
				xm_err("--appliance: %s is named twice", cfg->appliance[i].uri);
				return -EINVAL;
			}
		}
	}
	return 0;
}

static int fill_config(struct xm_family_config *cfg)
{
	struct xm_inject_spec spec;
	int ret = check_local();

	if (!ret)
		ret = check_private_size();
	if (ret)
		return ret;
	ret = parse_mask(&cfg->masked_features);
	if (ret)
		return ret;
	if (opt.inject && *opt.inject &&
	    (xm_inject_parse(opt.inject, &spec) || strlen(opt.inject) >= sizeof(cfg->inject))) {
		xm_err("--inject: '%.60s' is not a specification (want e.g. seed=7,delay=1ms:0.01,error=0.001)",
		       opt.inject);
		return -EINVAL;
	}
	cfg->budget_bytes = xm_round_down(opt.local_bytes, XM_PAGE_SIZE);
	cfg->size_bytes = opt.size_bytes == XM_RUN_UNSET ? 0 : opt.size_bytes;
	cfg->min_map_bytes = xm_round_up(opt.min_map_bytes, XM_PAGE_SIZE);
	cfg->stall_ns = opt.stall_ns;
	cfg->lost_timeout_ns = opt.lost_timeout_ns;
	cfg->verify = opt.verify;
	cfg->handlers = (uint32_t)opt.handlers;
	cfg->log_level = (uint32_t)opt.log_level;
	cfg->fault_mode = opt.fault == FAULT_SIGNAL ? XM_FAULT_SIGNAL : XM_FAULT_THREAD;
	xm_snprintf(cfg->evict, sizeof(cfg->evict), "%s", xm_evict_names[opt.evict]);
	xm_snprintf(cfg->prefetch, sizeof(cfg->prefetch), "%s", xm_prefetch_names[opt.prefetch]);
	xm_snprintf(cfg->inject, sizeof(cfg->inject), "%s", opt.inject ? opt.inject : "");
	for (int i = 0; i < opt.appliances.n && !ret; i++)
		ret = add_appliance(cfg, opt.appliances.v[i]);
	return ret ? ret : check_appliance_twice(cfg);
}

/* As much as --size asks, in whole slabs and one more, since the last is rarely used to its end. */
static uint64_t private_bytes(void)
{
	uint64_t max = private_max();

	return opt.size_bytes < max ? xm_min(xm_round_up(opt.size_bytes, XM_SLAB_SIZE) + XM_SLAB_SIZE, max) : max;
}

/* ---- statistics --------------------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *tail)
{
	size_t n = strlen(text), t = strlen(tail);

	return n >= t && strcmp(text + n - t, tail) == 0;
}

/* Where statistics go, opened before the command starts: a name that cannot be written is found out then. */
static struct stats_file {
	const char *name;
	int fd; /* -1: none */
} stats_file[2] = { { .fd = -1 }, { .fd = -1 } };

static int open_stats_file(struct stats_file *f, const char *what, const char *name)
{
	f->name = *name ? name : "stderr";
	f->fd = *name ? open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : 2;
	if (f->fd >= 0)
		return 0;
	xm_err("%s: %s: %s: name a file %s", what, name, xm_strerror(errno),
	       errno == ENOENT || errno == ENOTDIR ? "in an existing directory" : "that can be written");
	return -EINVAL;
}

/* 0, -EINVAL */
static int open_stats(void)
{
	const char *json = getenv("XMEM_STATS_JSON");
	int ret;

	if (!opt.stats)
		return 0;
	ret = open_stats_file(&stats_file[0], "--stats", opt.stats);
	if (ret || !json || !*json)
		return ret;
	if (ends_in(json, ".json"))
		return open_stats_file(&stats_file[1], "XMEM_STATS_JSON", json);
	xm_err("XMEM_STATS_JSON: '%.100s' does not end in .json", json);
	return -EINVAL;
}

static void write_stats(struct xm_family *f, const struct xm_stats_run *run, const struct stats_file *file)
{
	struct xm_out out;
	int err;

	if (file->fd < 0)
		return;
	xm_out_to_fd(&out, file->fd);
	if (ends_in(file->name, ".json"))
		xm_stats_json(&out, f, run);
	else
		xm_stats_text(&out, f, run);
	err = xm_out_flush(&out);
	if (err)
		xm_err("statistics: %s: %s", file->name, xm_strerror(err));
}

static void report(struct xm_family *f, const struct xm_stats_run *run)
{
	write_stats(f, run, &stats_file[0]);
	write_stats(f, run, &stats_file[1]);
}

/* ---- main --------------------------------------------------------------------------------------------- */

/* Whether to go on with a command of that verdict; else *status is the exit status. */
static bool admit(const char *command, enum xm_cover_verdict verdict, const char *why, int *status)
{
	switch (verdict) {
	case XM_COVER_OK: return true;
	case XM_COVER_NOT_FOUND:
		xm_err("%s: %s", *command ? command : "''", why);
		*status = XM_RUN_NOT_FOUND;
		return false;
	case XM_COVER_NOT_EXECUTABLE:
		xm_err("%s: %s", command, why);
		*status = XM_RUN_NOT_EXECUTABLE;
		return false;
	default: break;
	}
	if (opt.strict) {
		xm_err("%s cannot be covered: %s", command, why);
		*status = XM_RUN_FAILED;
		return false;
	}
	xm_warn("%s cannot be covered: %s; its memory stays local", command, why);
	return true;
}

static int exec_failed(const struct run_child *c, int err)
{
	xm_err("%s: %s", c->argv[0], err == -ENOEXEC ? "no program for this machine" : xm_strerror(err));
	return err == -ENOENT ? XM_RUN_NOT_FOUND : XM_RUN_NOT_EXECUTABLE;
}

static int check_preload(char *path)
{
	int ret = run_find_preload(path);

	if (ret == -ENOEXEC) {
		xm_err("XMEM_PRELOAD: %s is no preload object: name libxmem-preload.so", path);
	} else if (ret) {
		xm_err("%s: no such preload object: build it, or name it by XMEM_PRELOAD", path);
	} else if (strpbrk(path, ": \t")) {
		xm_err("%s: a preload object's path may hold no blank and no colon: move it, or set XMEM_PRELOAD", path);
		ret = -EINVAL;
	}
	return ret;
}

/* Exit status of xmem-run when the command did not come about; does not return otherwise. */
static int run(struct xm_keeper_setup *setup, struct run_child *c, bool uncovered)
{
	struct xm_stats_run result = { .command = c->argv[0] };
	struct xm_keeper keeper;
	uint64_t start;
	int ret, left;

	if (xm_keeper_start(setup, &keeper))
		return XM_RUN_FAILED;
	if (uncovered)
		xm_add(&keeper.family->uncovered, 1);
	run_signals_init();
	c->family = keeper.env;
	ret = run_child_start(c);
	if (ret) {
		xm_err("cannot fork: %s", xm_strerror(ret));
		return XM_RUN_FAILED;
	}
	xm_keeper_command(&keeper, c->pid);
	start = xm_now_ns();
	ret = run_child_go(c);
	if (ret) {
		run_child_wait(c);
		if (xm_keeper_finish(&keeper) == 0)
			xm_keeper_wait(&keeper);
		return exec_failed(c, ret);
	}
	result.wait_status = run_child_wait(c);
	result.wall_ns = xm_now_ns() - start;
	left = xm_keeper_finish(&keeper);
	if (left < 0)
		xm_err("the keeper has died: processes of this family may be lost");
	result.still_running = left > 0 ? (uint32_t)left : 0;
	report(keeper.family, &result);
	if (left == 0)
		xm_keeper_wait(&keeper);
	run_exit_like(result.wait_status);
}

int main(int argc, char **argv)
{
	static struct xm_keeper_setup setup;
	static struct run_child child;
	char preload[PATH_MAX], why[256];
	enum xm_cover_verdict verdict;
	int first = argc, status = 0, ret;

	xm_log_init("xmem-run", XM_LOG_WARN);
	ret = parse_all(argc, argv, &first);
	if (ret)
		return ret > 0 ? 0 : XM_RUN_FAILED;
	xm_log_set_level((enum xm_log_level)opt.log_level);
	if (opt.check)
		return run_check(&opt);
	if (fill_config(&setup.cfg))
		return XM_RUN_FAILED;
	if (first >= argc) {
		xm_err("no command given (xmem-run [OPTION]... -- COMMAND; xmem-run --help lists the options)");
		return XM_RUN_FAILED;
	}
	child.argv = argv + first;
	verdict = xm_cover(argv[first], false, child.path, why);
	if (!admit(argv[first], verdict, why, &status))
		return status;
	if (check_preload(preload) || run_check_access(setup.cfg.masked_features, opt.fault == FAULT_SIGNAL) || open_stats())
		return XM_RUN_FAILED;
	child.strict = opt.strict;
	child.by_signal = opt.fault == FAULT_SIGNAL;
	child.preload = verdict == XM_COVER_HARMFUL ? NULL : preload;
	run_find_appliance(setup.appliance_program);
	setup.private_bytes = private_bytes();
	return run(&setup, &child, verdict != XM_COVER_OK);
}
