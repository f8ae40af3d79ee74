/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - the output buffer, sums over a family and the JSON form of statistics; stats_text.c has the block
 * for people. Any thread; no locks; no malloc, no stdio.
 *
 * The JSON name of a counter is the name of its field: one table, which a static assertion holds complete.
 */
#include "runtime/stats.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "log.h"
#include "sys.h"

#define HIST_COUNT 10

/* ---- output ------------------------------------------------------------------------------------------- */

void xm_out_to_fd(struct xm_out *o, int fd)
{
	memset(o, 0, sizeof(*o));
	o->fd = fd;
}

int xm_out_flush(struct xm_out *o)
{
	size_t at = 0;

	while (at < o->used && !o->err) {
		ssize_t n = xm_sys_write(o->fd, o->room + at, o->used - at);

		if (n >= 0)
			at += (size_t)n;
		else if (n != -EINTR && n != -EAGAIN)
			o->err = (int)n;
	}
	o->used = 0;
	return o->err;
}

static void put_bytes(struct xm_out *o, const char *text, size_t n)
{
	if (o->used + n > sizeof(o->room))
		xm_out_flush(o);
	memcpy(o->room + o->used, text, n);
	o->used += n;
}

void xm_out_print(struct xm_out *o, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = xm_vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put_bytes(o, text, xm_min((size_t)n, sizeof(text) - 1));
}

/* Length of the well-formed UTF-8 sequence at s, 0: none */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80	 ? 1
		   : s[0] < 0xc2 ? 0
		   : s[0] < 0xe0 ? 2
		   : s[0] < 0xf0 ? 3
		   : s[0] < 0xf5 ? 4
				 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* overlong forms, surrogates, beyond U+10FFFF */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

void xm_out_json_string(struct xm_out *o, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	put_bytes(o, "\"", 1);
	while (*s) {
		size_t n = utf8_length(s);

		if (n == 0) {
			put_bytes(o, "\\ufffd", 6);
			n = 1;
		} else if (*s == '"' || *s == '\\') {
			xm_out_print(o, "\\%c", *s);
		} else if (*s < 0x20 || *s == 0x7f) {
			xm_out_print(o, "\\u%04x", *s);
		} else {
			put_bytes(o, (const char *)s, n);
		}
		s += n;
	}
	put_bytes(o, "\"", 1);
}

/* ---- sums --------------------------------------------------------------------------------------------- */

static uint64_t external_now(struct xm_proc *p)
{
	return xm_load_relaxed(&p->stats.resident_pages) + xm_load_relaxed(&p->stats.remote_pages);
}

uint64_t xm_stats_external_pages(struct xm_family *f)
{
	uint64_t sum = 0;
	uint32_t high = xm_load(&f->procs_high);

	for (uint32_t i = 0; i < high; i++)
		if (xm_load(&f->proc[i].state) == XM_PROC_LIVE)
			sum += external_now(&f->proc[i]);
	return sum;
}

void xm_stats_sum(struct xm_family *f, struct xm_stats_sum *sum)
{
	uint64_t one = 0, now = xm_stats_external_pages(f);
	uint32_t high = xm_load(&f->procs_high);

	memset(sum, 0, sizeof(*sum));
	xm_proc_stats_merge(&sum->total, &f->ended);
	sum->processes = f->ended_procs;
	for (uint32_t i = 0; i < high && i < XM_MAX_PROCS; i++) {
		struct xm_proc *p = &f->proc[i];
		uint32_t state = xm_load(&p->state);

		if (state == XM_PROC_FREE)
			continue;
		xm_proc_stats_merge(&sum->total, &p->stats);
		sum->processes++;
		sum->live += (state == XM_PROC_LIVE || state == XM_PROC_STARTING) &&
			     !xm_load_relaxed(&p->ended_ns);
		one = xm_max(one, p->stats.external_pages_max);
	}
	/* sampled each second: one process's own peak, which is exact, may be above it */
	sum->external_pages_max = xm_max(xm_max(one, now), xm_load_relaxed(&f->external_pages_max));
}

const struct xm_hist *xm_stats_parts(const struct xm_proc_stats *s)
{
	return &s->part_delivery_ns;
}

uint64_t xm_stats_part_ns(const struct xm_hist part[XM_PARTS], enum xm_part i)
{
	switch (i) {
	case XM_PART_DELIVERY:
	case XM_PART_RETURN: return xm_hist_quantile(&part[i], 0.5) * xm_load_relaxed(&part[XM_PART_REST].count);
	case XM_PART_INSTALL: return xm_load_relaxed(&part[i].sum) * XM_INSTALL_SAMPLE;
	default: return xm_load_relaxed(&part[i].sum);
	}
}

int xm_stats_coverage_permille(const struct xm_proc_stats *s)
{
	uint64_t ext = xm_load_relaxed(&s->external_pages_max) << XM_PAGE_SHIFT;
	uint64_t local = xm_load_relaxed(&s->anon_local_bytes);

	if (!ext && !local)
		return -1;
	/* in KiB: no overflow below 2^54 bytes times 1000 */
	return (int)((ext >> 10) * 1000 / xm_max((ext >> 10) + (local >> 10), 1ull));
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

struct field {
	const char *name;
	size_t offset;
};

#define F(name)                                             \
	{                                                   \
#name, offsetof(struct xm_proc_stats, name) \
	}

static const struct field counters[] = {
	F(faults_zero),
	F(faults_fetch),
	F(faults_write),
	F(faults_wait),
	F(faults_spurious),
	F(faults_by_signal),
	F(calls_trapped),
	F(faults_bad),
	F(faults_lost),
	F(faults_handed),
	F(zero_pages),
	F(fetched_pages),
	F(prefetched_pages),
	F(prefetch_hit_pages),
	F(prefetch_waste_pages),
	F(evicted_pages),
	F(evicted_dirty_pages),
	F(evicted_clean_pages),
	F(evicted_zero_pages),
	F(evict_refused_pages),
	F(freed_pages),
	F(fetched_bytes),
	F(written_bytes),
	F(checksum_errors),
	F(link_errors),
	F(link_reconnects),
	F(install_calls),
	F(evict_calls),
	F(evict_cpu_ns),
	F(message_reads),
	F(control_messages),
	F(reclaim_direct),
	F(reclaim_background),
	F(over_budget_pages_max),
	F(stalls),
	F(stall_ns),
	F(forks),
	F(fetchers_max),
	F(resident_pages),
	F(resident_pages_max),
	F(mapped_pages),
	F(mapped_pages_max),
	F(remote_pages),
	F(remote_pages_max),
	F(external_pages_max),
	F(anon_local_bytes),
};

/* sums over the links to all appliances */
#define L(name) { "link_" #name, offsetof(struct xm_link_stats, name) }

static const struct field links[] = {
	L(reads),
	L(writes),
	L(atomics),
	L(read_bytes),
	L(write_bytes),
	L(work_requests),
	L(doorbells),
	L(registrations),
	L(polls),
	L(completions),
	L(sleeps),
};

static const struct field hists[] = {
	F(fetch_ns),
	F(zero_ns),
	F(write_ns),
	F(evict_ns),
	F(part_delivery_ns),
	F(part_wait_ns),
	F(part_fetch_ns),
	F(part_install_ns),
	F(part_rest_ns),
	F(part_return_ns),
};

_Static_assert(XM_ARRAY_SIZE(counters) * sizeof(uint64_t) == offsetof(struct xm_proc_stats, fetch_ns),
	       "every counter has its line in the table");
_Static_assert(XM_ARRAY_SIZE(hists) == HIST_COUNT, "every histogram too");

static void hist_json(struct xm_out *o, const char *name, const struct xm_hist *h)
{
	uint64_t count = xm_load_relaxed(&h->count);

	xm_out_print(o, ", \"%s\": {\"count\": %llu, \"mean\": %llu", name, (unsigned long long)count,
		     (unsigned long long)(count ? xm_load_relaxed(&h->sum) / count : 0));
	xm_out_print(
		o, ", \"p50\": %llu, \"p99\": %llu, \"p999\": %llu, \"max\": %llu}",
		(unsigned long long)xm_hist_quantile(h, 0.5), (unsigned long long)xm_hist_quantile(h, 0.99),
		(unsigned long long)xm_hist_quantile(h, 0.999), (unsigned long long)xm_load_relaxed(&h->max));
}

static uint64_t link_sum(const struct xm_proc_stats *s, const struct field *f)
{
	uint64_t sum = 0;

	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++)
		sum += xm_load_relaxed((const uint64_t *)((const char *)&s->link[a] + f->offset));
	return sum;
}

void xm_stats_block_json(struct xm_out *o, const struct xm_proc_stats *s)
{
	int coverage = xm_stats_coverage_permille(s);

	xm_out_print(o, "{");
	for (size_t i = 0; i < XM_ARRAY_SIZE(counters); i++) {
		const uint64_t *v = (const uint64_t *)((const char *)s + counters[i].offset);

		xm_out_print(o, "%s\"%s\": %llu", i ? ", " : "", counters[i].name,
			     (unsigned long long)xm_load_relaxed(v));
	}
	for (size_t i = 0; i < XM_ARRAY_SIZE(links); i++)
		xm_out_print(o, ", \"%s\": %llu", links[i].name, (unsigned long long)link_sum(s, &links[i]));
	for (size_t i = 0; i < XM_ARRAY_SIZE(hists); i++)
		hist_json(o, hists[i].name, (const struct xm_hist *)((const char *)s + hists[i].offset));
	if (coverage < 0)
		xm_out_print(o, ", \"coverage\": null}");
	else
		xm_out_print(o, ", \"coverage\": %d.%03d}", coverage / 1000, coverage % 1000);
}

static void number(struct xm_out *o, const char *name, uint64_t v)
{
	xm_out_print(o, "\"%s\": %llu, ", name, (unsigned long long)v);
}

static void run_json(struct xm_out *o, const struct xm_stats_run *run)
{
	int st = run->wait_status;

	xm_out_print(o, "\"run\": {\"command\": ");
	xm_out_json_string(o, run->command ? run->command : "");
	xm_out_print(o, ", \"wall_ns\": %llu, ", (unsigned long long)run->wall_ns);
	if (WIFSIGNALED(st))
		xm_out_print(o, "\"exit_status\": null, \"signal\": %d, ", WTERMSIG(st));
	else
		xm_out_print(o, "\"exit_status\": %d, \"signal\": null, ", WEXITSTATUS(st));
	xm_out_print(o, "\"still_running\": %u},\n ", run->still_running);
}

static void config_json(struct xm_out *o, struct xm_family *f)
{
	const struct xm_family_config *c = &f->cfg;

	xm_out_print(o, "\"config\": {");
	number(o, "local_bytes", c->budget_bytes);
	number(o, "size_bytes", c->size_bytes);
	number(o, "min_map_bytes", c->min_map_bytes);
	number(o, "stall_ns", c->stall_ns);
	number(o, "lost_timeout_ns", c->lost_timeout_ns);
	number(o, "masked_features", c->masked_features);
	xm_out_print(o, "\"verify\": %s, \"evict\": ", c->verify ? "true" : "false");
	xm_out_json_string(o, c->evict);
	xm_out_print(o, ", \"prefetch\": ");
	xm_out_json_string(o, c->prefetch);
	xm_out_print(o, ", \"inject\": ");
	xm_out_json_string(o, c->inject);
	xm_out_print(o, "},\n ");
}

static void path_json(struct xm_out *o, const struct xm_family_appliance *a)
{
	char gid[INET6_ADDRSTRLEN];
	int64_t retries = xm_load(&a->retries);

	if (!a->path.device[0])
		return;
	xm_out_print(o, ", \"device\": ");
	xm_out_json_string(o, a->path.device);
	xm_out_print(o, ", \"port\": %u, \"gid_index\": %u, \"gid\": \"%s\", \"path_mtu_bytes\": %u", a->path.port,
		     a->path.gid_index, inet_ntop(AF_INET6, a->path.gid, gid, sizeof(gid)), a->path.mtu_bytes);
	if (retries < 0)
		xm_out_print(o, ", \"device_retries\": null");
	else
		xm_out_print(o, ", \"device_retries\": %lld", (long long)retries);
}

static void link_json(struct xm_out *o, const struct xm_link_stats *s)
{
	xm_out_print(o, ", \"link\": {");
	for (size_t i = 0; i < XM_ARRAY_SIZE(links); i++)
		number(o, links[i].name + sizeof("link_") - 1,
		       xm_load_relaxed((const uint64_t *)((const char *)s + links[i].offset)));
	number(o, "errors", s->errors);
	xm_out_print(o, "\"reconnects\": %llu}", (unsigned long long)s->reconnects);
}

static void appliances_json(struct xm_out *o, struct xm_family *f, const struct xm_proc_stats *total)
{
	xm_out_print(o, "\"appliances\": [");
	for (uint32_t i = 0; i < f->cfg.appliances && i < XM_MAX_APPLIANCES; i++) {
		struct xm_family_appliance *a = &f->appliance[i];

		xm_out_print(o, "%s{\"uri\": ", i ? ",\n  " : "");
		xm_out_json_string(o, f->cfg.appliance[i].uri);
		path_json(o, a);
		link_json(o, &total->link[i]);
		if (!xm_load(&a->valid)) {
			xm_out_print(o, ", \"status\": null}");
			continue;
		}
		xm_out_print(o, ", ");
		number(o, "total_bytes", a->stat.total_bytes);
		number(o, "free_bytes", a->stat.free_bytes);
		number(o, "slab_bytes", a->stat.slab_bytes);
		number(o, "slabs_used", a->stat.slabs_used);
		number(o, "sessions", a->stat.sessions);
		number(o, "regions", a->stat.regions);
		number(o, "reads", a->stat.reads);
		number(o, "writes", a->stat.writes);
		number(o, "read_bytes", a->stat.read_bytes);
		number(o, "write_bytes", a->stat.write_bytes);
		number(o, "refused", a->stat.refused);
		xm_out_print(o, "\"status\": %d}", a->status);
	}
	xm_out_print(o, "],\n ");
}

static const char *state_name(uint32_t state)
{
	static const char *const names[] = { "free", "starting", "live", "reaping", "ended" };

	return state < XM_ARRAY_SIZE(names) ? names[state] : "unknown";
}

static void process_json(struct xm_out *o, struct xm_proc *p)
{
	char text[sizeof(p->exe)];

	xm_out_print(o, "{\"pid\": %d, \"ppid\": %d, \"state\": \"%s\", \"comm\": ", p->pid, p->ppid,
		     state_name(xm_load(&p->state)));
	/* the owner may be writing: copies that surely end */
	xm_snprintf(text, sizeof(text), "%.15s", p->comm);
	xm_out_json_string(o, text);
	xm_snprintf(text, sizeof(text), "%.111s", p->exe);
	xm_out_print(o, ", \"exe\": ");
	xm_out_json_string(o, text);
	xm_out_print(o, ", \"joined_ns\": %llu, \"ended_ns\": %llu, \"stats\": ",
		     (unsigned long long)p->joined_ns, (unsigned long long)p->ended_ns);
	xm_stats_block_json(o, &p->stats);
	xm_out_print(o, "}");
}

void xm_stats_json(struct xm_out *o, struct xm_family *f, const struct xm_stats_run *run)
{
	uint32_t high = xm_load(&f->procs_high);
	struct xm_stats_sum sum;
	const char *sep = "";

	xm_stats_sum(f, &sum);
	xm_out_print(o, "{\"version\": 1,\n ");
	if (run)
		run_json(o, run);
	config_json(o, f);
	xm_out_print(o, "\"family\": {");
	number(o, "processes", sum.processes);
	number(o, "processes_live", sum.live);
	number(o, "processes_live_max", f->procs_live_max);
	number(o, "uncovered_commands", xm_load(&f->uncovered));
	number(o, "budget_pages", f->budget_pages);
	number(o, "resident_pages", xm_load(&f->resident_pages));
	number(o, "resident_pages_max", xm_load(&f->resident_pages_max));
	number(o, "external_pages_max", sum.external_pages_max);
	number(o, "commit_limit_pages", f->commit_limit_pages == UINT64_MAX ? 0 : f->commit_limit_pages);
	number(o, "committed_pages", xm_load(&f->committed_pages));
	number(o, "committed_pages_max", xm_load(&f->committed_pages_max));
	number(o, "slots_used", xm_load(&f->slots_used));
	number(o, "slots_used_max", xm_load(&f->slots_used_max));
	number(o, "slabs", xm_load(&f->nslabs));
	xm_out_print(o, "\"total\": ");
	xm_stats_block_json(o, &sum.total);
	xm_out_print(o, "},\n ");
	appliances_json(o, f, &sum.total);
	xm_out_print(o, "\"processes\": [");
	for (uint32_t i = 0; i < high && i < XM_MAX_PROCS; i++) {
		if (xm_load(&f->proc[i].state) == XM_PROC_FREE)
			continue;
		xm_out_print(o, "%s", sep);
		process_json(o, &f->proc[i]);
		sep = ",\n  ";
	}
	xm_out_print(o, "]}\n");
}
