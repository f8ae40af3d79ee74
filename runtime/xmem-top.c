/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-top.c - options, and the plain output for scripts: --once prints the statistics block (or JSON) of each
 * family as it stands, --batch a line per family and interval. The screen is xmem-top-screen.c's.
 */
#include "runtime/xmem-top.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"
#include "opt.h"
#include "sys.h"
#include "units.h"

static struct {
	uint64_t interval_ns, count;
	bool once, batch, json;
	const char *family;
} opt = { .interval_ns = 1000000000ull };

static const struct xm_opt options[] = {
	{ "interval", 'd', XM_OPT_TIME, &opt.interval_ns, "TIME",
	  "time between looks (default 1s, at least 100ms)", .min = 100000000, .max = 3600000000000ull },
	{ "once", '1', XM_OPT_FLAG, &opt.once, NULL, "print the figures of every family once and end",
	  .max = 0 },
	{ "json", 0, XM_OPT_FLAG, &opt.json, NULL, "with --once: one JSON object a family", .max = 0 },
	{ "batch", 'b', XM_OPT_FLAG, &opt.batch, NULL, "print a line per family and interval", .max = 0 },
	{ "count", 'n', XM_OPT_U64, &opt.count, "N", "with --batch: end after N intervals (default 0: never)",
	  .max = 0 },
	{ "family", 'f', XM_OPT_STRING, &opt.family, "NAME",
	  "only this family: its name, or the pid of its xmem-run", .max = 0 },
	{ .name = NULL },
};

static const struct xm_opt_program program = {
	.name = "xmem-top",
	.synopsis = "[OPTION]...",
	.summary = "Shows what programs started by xmem-run do with their external memory.",
	.epilog =
		"Keys: q quits, left and right choose a family, up and down scroll its processes, space freezes.\n"
		"Only families of the same user are seen; root sees all.\n",
	.opts = options,
};

static int print_once(struct top *t)
{
	struct xm_out o;
	int ret = 0;

	for (int i = 0; i < t->n && !ret; i++) {
		struct top_family *v = t->family[i];

		xm_out_to_fd(&o, 1);
		if (opt.json) {
			xm_stats_json(&o, v->f, NULL);
		} else {
			xm_out_print(&o, "%s%s (%s)\n", i ? "\n" : "", v->name, top_title(v));
			xm_stats_text(&o, v->f, NULL);
		}
		ret = xm_out_flush(&o);
	}
	return ret;
}

static void batch_line(struct xm_out *o, const struct top_family *v)
{
	const struct top_rates *r = &v->rate;
	char resident[32], remote[32], in[32], out[32], p50[32], p99[32];

	xm_out_print(o, "%-15s %9s %9s %8llu %8llu %8llu %9s/s %9s/s %8s %8s\n", top_title(v),
		     xm_format_size(xm_load_relaxed(&v->f->resident_pages) << XM_PAGE_SHIFT, resident, 32),
		     xm_format_size(v->now.total.remote_pages << XM_PAGE_SHIFT, remote, 32),
		     (unsigned long long)r->fetch, (unsigned long long)r->zero, (unsigned long long)r->evict,
		     xm_format_size(r->in_bytes, in, 32), xm_format_size(r->out_bytes, out, 32),
		     r->fetch_p50_ns ? xm_format_time(r->fetch_p50_ns, p50, 32) : "-",
		     r->fetch_p99_ns ? xm_format_time(r->fetch_p99_ns, p99, 32) : "-");
}

static int print_batch(struct top *t)
{
	struct xm_out o;
	int ret = 0;

	for (uint64_t n = 0; !ret && (!opt.count || n < opt.count); n++) {
		xm_sys_sleep(opt.interval_ns);
		top_refresh(t);
		top_sample(t);
		xm_out_to_fd(&o, 1);
		if (n % 20 == 0)
			xm_out_print(&o, "%-15s %9s %9s %8s %8s %8s %11s %11s %8s %8s\n", "FAMILY",
				     "RESIDENT", "REMOTE", "FETCH/s", "FIRST/s", "EVICT/s", "IN", "OUT",
				     "P50", "P99");
		for (int i = 0; i < t->n; i++)
			batch_line(&o, t->family[i]);
		ret = xm_out_flush(&o);
	}
	return ret;
}

int main(int argc, char **argv)
{
	struct top t = { 0 };
	int first, ret;

	xm_log_init("xmem-top", XM_LOG_WARN);
	ret = xm_opt_parse(&program, argc, argv, &first);
	if (ret)
		return ret > 0 ? 0 : 2;
	if (first < argc) {
		xm_err("'%s': no arguments wanted (xmem-top --help)", argv[first]);
		return 2;
	}
	t.only = opt.family;
	if (!opt.once && !opt.batch && !opt.json && !isatty(1)) {
		xm_err("standard output is no terminal: use --once or --batch");
		return 2;
	}
	if (opt.batch && (opt.once || opt.json)) {
		xm_err("--batch and %s exclude each other", opt.json ? "--json" : "--once");
		return 2;
	}
	if (opt.count && !opt.batch) {
		xm_err("--count wants --batch");
		return 2;
	}
	top_refresh(&t);
	top_sample(&t);
	if (opt.once || opt.json || opt.batch) {
		if (!t.n && opt.family) {
			xm_err("no family '%.60s' is running%s", opt.family, t.denied ? " that you may watch" : "");
			return 1;
		}
		if (!t.n && !opt.batch)
			xm_warn("no family is running%s", t.denied ? " that you may watch" : "");
		ret = opt.batch ? print_batch(&t) : print_once(&t);
	} else {
		ret = top_screen(&t, opt.interval_ns);
		if (ret)
			xm_err("cannot use this terminal (TERM=%s)", getenv("TERM") ? getenv("TERM") : "");
	}
	top_close(&t);
	return ret ? 1 : 0;
}
