/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.c - one table; the command line is read twice: once to find the configuration file, and again
 * after the file, so that it wins. Start-up and reload, control thread; the parser wants static variables.
 */
#include "appliance/options.h"
#include "appliance/serve.h"

#include "units.h"
#include "util.h"

#include <errno.h>
#include <numa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct xm_options o;

static const char *const huge_names[] = { "off", "2M", "1G", NULL };
static const char *const level_names[] = { "error", "warn", "info", "debug", NULL };

static const struct xm_opt table[] = {
	{ .name = "listen",
	  .letter = 'l',
	  .type = XM_OPT_LIST,
	  .var = &o.listen,
	  .value_name = "URI",
	  .help = "shm:PATH, shm:@NAME, tcp:PORT (loopback) or tcp:HOST:PORT; may be repeated" },
	{ .name = "memory",
	  .letter = 'm',
	  .type = XM_OPT_SIZE,
	  .var = &o.memory_bytes,
	  .value_name = "SIZE",
	  .help = "memory to lend, bytes or % of the machine's (default 50%)",
	  .percent_of = xm_machine_memory_bytes },
	{ .name = "slab",
	  .type = XM_OPT_SIZE,
	  .var = &o.slab_bytes,
	  .value_name = "SIZE",
	  .help = "unit of lending, a power of two from 1M to 64G (default 64M)",
	  .min = 1ull << 20,
	  .max = 1ull << 36 },
	{ .name = "lease",
	  .type = XM_OPT_TIME,
	  .var = &o.lease_ns,
	  .value_name = "TIME",
	  .help = "how long a session outlives its last connection (default 10s)",
	  .min = 1000000,
	  .max = 86400000000000ull },
	{ .name = "warm",
	  .type = XM_OPT_U64,
	  .var = &o.warm,
	  .value_name = "N",
	  .help = "slabs prepared ahead of requests (default 2)",
	  .max = 1024 },
	{ .name = "huge",
	  .type = XM_OPT_ENUM,
	  .var = &o.huge,
	  .names = huge_names,
	  .value_name = "off|2M|1G",
	  .help = "page size of the memory; the pages must have been set aside (default off)" },
	{ .name = "numa",
	  .type = XM_OPT_STRING,
	  .var = &o.numa,
	  .value_name = "NODE|interleave|off",
	  .help = "where the memory is taken from (default off: the kernel decides)" },
	{ .name = "name",
	  .type = XM_OPT_STRING,
	  .var = &o.name,
	  .value_name = "NAME",
	  .help = "name that clients are told (default the host's)" },
	{ .name = "log-level",
	  .type = XM_OPT_ENUM,
	  .var = &o.log_level,
	  .names = level_names,
	  .value_name = "error|warn|info|debug",
	  .help = "least serious message that is written (default info)" },
	{ .name = "config",
	  .letter = 'c',
	  .type = XM_OPT_STRING,
	  .var = &o.config,
	  .value_name = "FILE",
	  .help = "read settings from FILE first; read again at SIGHUP",
	  .command_line_only = true },
	{ .name = "ready-fd",
	  .type = XM_OPT_U64,
	  .var = &o.ready_fd,
	  .value_name = "N",
	  .help = "when ready, write one line with the addresses to descriptor N",
	  .max = XM_READY_FD_NONE,
	  .command_line_only = true },
	{ 0 },
};

static const struct xm_opt_program program = {
	.name = "xmem-appliance",
	.synopsis = "[OPTION]...",
	.summary = "Lends this machine's memory to programs that run under xmem-run, here or elsewhere.",
	.epilog = "Examples:\n"
		  "  xmem-appliance --listen shm:/run/xmem/xmem-appliance.sock --memory 8G\n"
		  "  xmem-appliance --listen tcp:10.0.0.5:7700 --memory 75% --name rack3\n"
		  "See xmem-appliance(8).\n",
	.opts = table,
};

static void set_defaults(void)
{
	static char host[64] = "appliance";

	gethostname(host, sizeof(host) - 1);
	o = (struct xm_options){ .memory_bytes = xm_machine_memory_bytes() / 2,
				 .slab_bytes = 64ull << 20,
				 .lease_ns = 10000000000ull,
				 .warm = 2,
				 .log_level = XM_LOG_INFO,
				 .name = host,
				 .ready_fd = XM_READY_FD_NONE };
}

/* Where a client looks when it is told nothing: the system's directory for root, else the user's own. */
static const char *default_listen(void)
{
	static char uri[160];
	const char *dir = getenv("XDG_RUNTIME_DIR");

	if (geteuid() == 0) {
		mkdir("/run/xmem", 0755);
		dir = "/run/xmem";
	}
	xm_snprintf(uri, sizeof(uri), "shm:%s/xmem-appliance.sock", dir && dir[0] ? dir : "/tmp");
	return uri;
}

static int parse_numa(struct xm_slab_kind *kind)
{
	uint64_t node;

	kind->numa = XM_NUMA_OFF;
	if (!o.numa || strcmp(o.numa, "off") == 0)
		return 0;
	if (numa_available() < 0) {
		xm_err("--numa %s: this machine has no NUMA support (use off)", o.numa);
		return -EINVAL;
	}
	if (strcmp(o.numa, "interleave") == 0) {
		kind->numa = XM_NUMA_INTERLEAVE;
		return 0;
	}
	if (xm_parse_u64(o.numa, 0, (uint64_t)numa_max_node(), &node) < 0) {
		if (numa_max_node())
			xm_err("--numa: '%.60s' is no node (want 0 to %d, interleave or off)", o.numa,
			       numa_max_node());
		else
			xm_err("--numa: '%.60s' is no node (want 0, interleave or off)", o.numa);
		return -EINVAL;
	}
	kind->numa = (int)node;
	return 0;
}

static int check_listen(void)
{
	char why[XM_WHY_MAX];
	struct xm_uri u;

	if (o.listen.n > XM_LISTEN_MAX) {
		xm_err("--listen: at most %d addresses", XM_LISTEN_MAX);
		return -EINVAL;
	}
	for (int i = 0; i < o.listen.n; i++) {
		if (xm_uri_parse_listen(o.listen.v[i], &u, why) < 0) {
			xm_err("--listen: %s", why);
			return -EINVAL;
		}
	}
	return 0;
}

static int check(void)
{
	static const uint64_t huge_bytes[] = { 0, 2ull << 20, 1ull << 30 };
	char memory[24], slab[24];

	if (o.slab_bytes & (o.slab_bytes - 1)) {
		xm_err("--slab %s: not a power of two (want e.g. 16M, 64M or 1G)",
		       xm_format_size(o.slab_bytes, slab, sizeof(slab)));
		return -EINVAL;
	}
	if (o.memory_bytes < o.slab_bytes) {
		xm_err("--memory %s: less than one slab of %s (give more, or a smaller --slab)",
		       xm_format_size(o.memory_bytes, memory, sizeof(memory)),
		       xm_format_size(o.slab_bytes, slab, sizeof(slab)));
		return -EINVAL;
	}
	if (o.memory_bytes > xm_machine_memory_bytes()) {
		xm_err("--memory %s: more than this machine may use, %s (give less)",
		       xm_format_size(o.memory_bytes, memory, sizeof(memory)),
		       xm_format_size(xm_machine_memory_bytes(), slab, sizeof(slab)));
		return -EINVAL;
	}
	o.kind.bytes = o.slab_bytes;
	o.kind.huge_bytes = huge_bytes[o.huge];
	if (o.kind.huge_bytes > o.slab_bytes) {
		xm_err("--huge %s: larger than a slab (give a larger --slab)", huge_names[o.huge]);
		return -EINVAL;
	}
	if (parse_numa(&o.kind) < 0)
		return -EINVAL;
	return check_listen();
}

static int parse_all(int argc, char **argv, const char *config)
{
	int first = argc, ret;

	set_defaults();
	ret = config ? xm_opt_parse_file(&program, config) : 0;
	if (ret == -ENOENT)
		xm_err("--config %s: no such file", config);
	if (ret < 0)
		return ret;
	if (config && o.listen.n) {
		struct xm_opt_list from_file = o.listen;

		o.listen.n = 0; /* addresses on the command line replace the file's */
		ret = xm_opt_parse(&program, argc, argv, &first);
		if (!o.listen.n)
			o.listen = from_file;
	} else {
		ret = xm_opt_parse(&program, argc, argv, &first);
	}
	if (ret == 0 && first < argc) {
		xm_err("'%s': no such option (see --help)", argv[first]);
		return -EINVAL;
	}
	return ret;
}

int xm_options_load(struct xm_options *out, int argc, char **argv)
{
	int ret = parse_all(argc, argv, NULL);

	if (ret == 0 && o.config)
		ret = parse_all(argc, argv, o.config);
	if (ret != 0)
		return ret;
	if (!o.listen.n)
		o.listen.v[o.listen.n++] = default_listen();
	ret = check();
	if (ret == 0)
		*out = o;
	return ret;
}
