/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_text.c - the block of statistics that an operator reads at two in the morning: what was allowed, what
 * was used, where the time went, what went wrong. Lines that would say "0 of nothing" are left out, the line
 * of errors never is. Any thread; no locks; no malloc, no stdio.
 */
#include "runtime/stats.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/wait.h>

#include "log.h"
#include "units.h"

struct text {
	struct xm_out *o;
	char a[32], b[32], c[32], d[32]; /* formatted figures of one line */
};

static const char *pages_text(uint64_t pages, char *buf)
{
	return xm_format_size(pages << XM_PAGE_SHIFT, buf, 32);
}

/* "1 234 567"-style grouping with commas */
static const char *count_text(uint64_t v, char *buf)
{
	char raw[24];
	int n = xm_snprintf(raw, sizeof(raw), "%llu", (unsigned long long)v);
	int at = 0;

	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			buf[at++] = ',';
		buf[at++] = raw[i];
	}
	buf[at] = 0;
	return buf;
}

static unsigned permille(uint64_t part, uint64_t whole)
{
	return whole ? (unsigned)(part * 1000 / whole) : 0;
}

static void print_head(struct text *t, const struct xm_stats_run *run)
{
	char how[40];
	int st;

	if (!run) {
		xm_out_print(t->o, "xmem: family\n");
		return;
	}
	st = run->wait_status;
	if (WIFSIGNALED(st))
		xm_snprintf(how, sizeof(how), "killed by signal %d (SIG%s)", WTERMSIG(st),
			    sigabbrev_np(WTERMSIG(st)) ? sigabbrev_np(WTERMSIG(st)) : "?");
	else
		xm_snprintf(how, sizeof(how), "exit status %d", WEXITSTATUS(st));
	xm_out_print(t->o, "xmem: %s: %s after %s\n", run->command ? run->command : "command", how,
		     xm_format_time(run->wall_ns, t->a, sizeof(t->a)));
	if (run->still_running)
		xm_out_print(t->o, "  still running     %u process%s of the family: figures so far\n",
			     run->still_running, run->still_running == 1 ? "" : "es");
}

static void print_memory(struct text *t, struct xm_family *f, const struct xm_stats_sum *s)
{
	uint64_t peak = xm_load(&f->resident_pages_max);
	unsigned used = permille(peak, f->budget_pages);
	int coverage = xm_stats_coverage_permille(&s->total);

	xm_out_print(t->o, "  local memory      %s budget, peak %s (%u.%u %%)",
		     pages_text(f->budget_pages, t->a), pages_text(peak, t->b), used / 10, used % 10);
	if (s->total.over_budget_pages_max)
		xm_out_print(t->o, ", over by at most %s", pages_text(s->total.over_budget_pages_max, t->c));
	xm_out_print(t->o, "\n  external memory   peak %s, on appliances at most %s\n",
		     pages_text(s->external_pages_max, t->a), pages_text(xm_load(&f->slots_used_max), t->b));
	if (coverage < 0)
		xm_out_print(t->o, "  coverage          not measured\n");
	else
		xm_out_print(t->o,
			     "  coverage          %d.%d %% external; %s of private memory stayed local\n",
			     coverage / 10, coverage % 10,
			     xm_format_size(s->total.anon_local_bytes, t->a, sizeof(t->a)));
	xm_out_print(t->o, "  processes         %llu in all, at most %u at once",
		     (unsigned long long)s->processes, f->procs_live_max);
	if (xm_load(&f->uncovered))
		xm_out_print(t->o, "; %llu command(s) NOT covered",
			     (unsigned long long)xm_load(&f->uncovered));
	xm_out_print(t->o, "\n");
}

static void print_latency(struct text *t, const char *name, uint64_t count, const struct xm_hist *h)
{
	char max[32];

	xm_out_print(t->o, "    %-15s %13s", name, count_text(count, t->a));
	if (!xm_load_relaxed(&h->count)) {
		xm_out_print(t->o, "\n");
		return;
	}
	xm_out_print(t->o, " %10s %10s %10s %10s\n",
		     xm_format_time(xm_hist_quantile(h, 0.5), t->a, sizeof(t->a)),
		     xm_format_time(xm_hist_quantile(h, 0.99), t->b, sizeof(t->b)),
		     xm_format_time(xm_hist_quantile(h, 0.999), t->c, sizeof(t->c)),
		     xm_format_time(h->max, max, sizeof(max)));
}

static void print_faults(struct text *t, const struct xm_proc_stats *s)
{
	xm_out_print(t->o, "  %-17s %13s %10s %10s %10s %10s\n", "faults handled in", "count", "p50", "p99", "p99.9",
		     "max");
	print_latency(t, "fetched", s->faults_fetch, &s->fetch_ns);
	print_latency(t, "first touch", s->faults_zero, &s->zero_ns);
	print_latency(t, "write to clean", s->faults_write, &s->write_ns);
	if (s->faults_wait || s->faults_spurious)
		xm_out_print(t->o, "    waited for another thread %s, already resolved %s\n",
			     count_text(s->faults_wait, t->a), count_text(s->faults_spurious, t->b));
	if (s->faults_by_signal)
		xm_out_print(t->o, "    resolved by the faulting thread %s; system calls trapped %s\n",
			     count_text(s->faults_by_signal, t->a), count_text(s->calls_trapped, t->b));
	if (s->faults_handed)
		xm_out_print(t->o, "    waited for a link in a handler's place %s, by at most %s threads of a process\n",
			     count_text(s->faults_handed, t->a), count_text(s->fetchers_max, t->b));
}

/* Where the time of faults went: all in all, and for each part what one fault had of it. */
static void print_parts(struct text *t, const struct xm_proc_stats *s)
{
	static const char *const name[XM_PARTS] = { "delivery", "wait", "fetch", "install", "rest", "return" };
	const struct xm_hist *h = xm_stats_parts(s);
	uint64_t all = 0, ns, faults = xm_load_relaxed(&h[XM_PART_REST].count);
	char max[32];

	for (int i = 0; i < XM_PARTS; i++)
		all += xm_stats_part_ns(h, (enum xm_part)i);
	if (!faults)
		return;
	xm_out_print(t->o, "  %-17s %8s %4s %10s %10s %10s %10s\n", "time of faults", "total", "", "p50", "p99", "p99.9", "max");
	for (int i = 0; i < XM_PARTS; i++) {
		if (!xm_load_relaxed(&h[i].count))
			continue;
		ns = xm_stats_part_ns(h, (enum xm_part)i);
		xm_out_print(t->o, "    %-15s %8s %3u%%", name[i], xm_format_time(ns, t->a, sizeof(t->a)),
			     permille(ns, all) / 10);
		xm_out_print(t->o, " %10s %10s %10s %10s\n", xm_format_time(xm_hist_quantile(&h[i], 0.5), t->a, sizeof(t->a)),
			     xm_format_time(xm_hist_quantile(&h[i], 0.99), t->b, sizeof(t->b)),
			     xm_format_time(xm_hist_quantile(&h[i], 0.999), t->c, sizeof(t->c)),
			     xm_format_time(h[i].max, max, sizeof(max)));
	}
	xm_out_print(t->o, "    %-15s %8s 100%% %10s a fault%s\n", "together", xm_format_time(all, t->a, sizeof(t->a)),
		     xm_format_time(all / faults, t->b, sizeof(t->b)),
		     xm_load_relaxed(&h[XM_PART_DELIVERY].count) ? "" : "; too short a run to sample delivery and return");
}

static void print_traffic(struct text *t, const struct xm_proc_stats *s)
{
	unsigned hit = permille(s->prefetch_hit_pages, s->prefetched_pages);
	unsigned waste = permille(s->prefetch_waste_pages, s->prefetched_pages);

	xm_out_print(t->o, "  fetched           %s pages, %s; %s of them ahead of use",
		     count_text(s->fetched_pages, t->a), xm_format_size(s->fetched_bytes, t->b, sizeof(t->b)),
		     count_text(s->prefetched_pages, t->c));
	if (s->prefetched_pages)
		xm_out_print(t->o, "\n                    prefetch: %u.%u %% hit, %u.%u %% wasted", hit / 10,
			     hit % 10, waste / 10, waste % 10);
	xm_out_print(t->o, "\n  evicted           %s pages: %s written (%s),\n",
		     count_text(s->evicted_pages, t->a), count_text(s->evicted_dirty_pages, t->b),
		     xm_format_size(s->written_bytes, t->c, sizeof(t->c)));
	xm_out_print(t->o, "                    %s clean and %s zero dropped, %s refused\n",
		     count_text(s->evicted_clean_pages, t->a), count_text(s->evicted_zero_pages, t->b),
		     count_text(s->evict_refused_pages, t->c));
	xm_out_print(t->o, "  reclaim           %s batches in the background, %s inside faults",
		     count_text(s->reclaim_background, t->a), count_text(s->reclaim_direct, t->b));
	if (xm_load_relaxed(&s->evict_ns.count))
		xm_out_print(t->o, "; p99 %s",
			     xm_format_time(xm_hist_quantile(&s->evict_ns, 0.99), t->c, sizeof(t->c)));
	xm_out_print(t->o, "\n");
	if (s->stalls)
		xm_out_print(t->o,
			     "  STALLS            %s waits for room, %s in all: --local or --size is small\n",
			     count_text(s->stalls, t->a), xm_format_time(s->stall_ns, t->b, sizeof(t->b)));
}

static void print_errors(struct text *t, const struct xm_proc_stats *s)
{
	const struct {
		const char *what;
		uint64_t n;
	} err[] = {
		{ "touches of pages lost with their appliance", s->faults_lost },
		{ "touches of ranges that are not present", s->faults_bad },
		{ "pages with a wrong checksum (fetched again)", s->checksum_errors },
		{ "operations repeated after a link error", s->link_errors },
		{ "links re-established", s->link_reconnects },
	};
	bool any = false;

	for (size_t i = 0; i < XM_ARRAY_SIZE(err); i++) {
		if (!err[i].n)
			continue;
		xm_out_print(t->o, "  %-17s %s %s\n", any ? "" : "ERRORS", count_text(err[i].n, t->a),
			     err[i].what);
		any = true;
	}
	if (!any)
		xm_out_print(t->o, "  errors            none\n");
}

/* Over verbs: by which device, and how that goes. */
static void print_path(struct text *t, struct xm_family_appliance *a, const struct xm_link_stats *s)
{
	uint64_t ops = s->reads + s->writes + s->atomics, polls = xm_max(s->polls, 1ull);
	int64_t retries = xm_load(&a->retries);
	char gid[INET6_ADDRSTRLEN];

	if (!a->path.device[0])
		return;
	xm_out_print(t->o, "                    %.20s port %u, GID %u (%s), path MTU %u\n", a->path.device, a->path.port,
		     a->path.gid_index, inet_ntop(AF_INET6, a->path.gid, gid, sizeof(gid)), a->path.mtu_bytes);
	xm_out_print(t->o, "                    %s operations, %llu.%llu completions a poll, %s errors;\n",
		     count_text(ops, t->a), (unsigned long long)(s->completions / polls),
		     (unsigned long long)(s->completions % polls * 10 / polls), count_text(s->errors, t->b));
	if (retries < 0)
		xm_out_print(t->o, "                    the device does not count retries\n");
	else
		xm_out_print(t->o, "                    %s retries of the whole device\n", count_text((uint64_t)retries, t->a));
}

static void print_appliances(struct text *t, struct xm_family *f, const struct xm_proc_stats *total)
{
	for (uint32_t i = 0; i < f->cfg.appliances && i < XM_MAX_APPLIANCES; i++) {
		struct xm_family_appliance *a = &f->appliance[i];

		xm_out_print(t->o, "  appliance         %.58s\n", f->cfg.appliance[i].uri);
		print_path(t, a, &total->link[i]);
		if (!xm_load(&a->valid))
			continue;
		if (a->status) {
			xm_out_print(t->o, "                    NOT REACHABLE: %s\n", xm_strerror(a->status));
			continue;
		}
		xm_out_print(
			t->o, "                    %s of %s in use",
			xm_format_size(a->stat.total_bytes - xm_min(a->stat.free_bytes, a->stat.total_bytes),
				       t->a, sizeof(t->a)),
			xm_format_size(a->stat.total_bytes, t->b, sizeof(t->b)));
		if (a->stat.reads || a->stat.writes)
			xm_out_print(t->o, "; served %s reads, %s writes", count_text(a->stat.reads, t->c),
				     count_text(a->stat.writes, t->d));
		xm_out_print(t->o, "\n");
	}
}

void xm_stats_text(struct xm_out *o, struct xm_family *f, const struct xm_stats_run *run)
{
	struct xm_stats_sum sum;
	struct text t = { .o = o };

	xm_stats_sum(f, &sum);
	print_head(&t, run);
	print_memory(&t, f, &sum);
	print_faults(&t, &sum.total);
	print_parts(&t, &sum.total);
	print_traffic(&t, &sum.total);
	print_errors(&t, &sum.total);
	print_appliances(&t, f, &sum.total);
}
