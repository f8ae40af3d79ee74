/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-top-sample.c - finds families by the abstract sockets of their keepers, maps them read-only, and turns two
 * looks at the counters into rates. Latencies of an interval are quantiles of the difference of two histograms.
 */
#include "runtime/xmem-top.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "runtime/family_internal.h"

#define NO_TOKEN "00000000000000000000000000000000"

/* ---- finding ------------------------------------------------------------------------------------------ */

static struct top_family *known(struct top *t, const char *name)
{
	for (int i = 0; i < t->n; i++)
		if (strcmp(t->family[i]->name, name) == 0)
			return t->family[i];
	return NULL;
}

static bool asked_for(const struct top *t, const char *name)
{
	size_t n = t->only ? strlen(t->only) : 0;

	if (!t->only || strcmp(t->only, name) == 0)
		return true;
	/* xmem-PID-... */
	return strncmp(name + 5, t->only, n) == 0 && name[5 + n] == '-';
}

static void attach(struct top *t, const char *name)
{
	struct top_family *v;
	char env[160];
	int err = 0, fd, sock;

	xm_snprintf(env, sizeof(env), "@%s:%s", name, NO_TOKEN);
	sock = xm_keeper_call(env, XM_KEEPER_TOP, 0, NULL);
	if (sock < 0)
		return; /* just ended */
	fd = xm_keeper_receive(sock, &err);
	v = fd < 0 ? NULL : calloc(1, sizeof(*v));
	if (v) {
		v->f = xm_family_map(fd, false, &err);
		v->sock = sock;
		xm_snprintf(v->name, sizeof(v->name), "%s", name);
	}
	if (fd >= 0)
		close(fd);
	if (v && v->f) {
		t->family[t->n++] = v;
		return;
	}
	t->denied += err == -EACCES;
	free(v);
	close(sock);
}

static void forget(struct top *t, int i)
{
	struct top_family *v = t->family[i];

	xm_family_unmap(v->f);
	close(v->sock);
	free(v);
	memmove(&t->family[i], &t->family[i + 1], (size_t)(--t->n - i) * sizeof(t->family[0]));
}

void top_refresh(struct top *t)
{
	char line[512], *at;
	FILE *list;

	for (int i = t->n - 1; i >= 0; i--) {
		char byte;

		if (recv(t->family[i]->sock, &byte, 1, MSG_DONTWAIT) == 0)
			t->family[i]->ended = true;
		if (t->family[i]->ended)
			forget(t, i);
	}
	t->denied = 0;
	list = fopen("/proc/net/unix", "re");
	while (list && fgets(line, sizeof(line), list)) {
		at = strstr(line, "@xmem-");
		/* keepers have a pid there, private appliances a word */
		if (!at || at[6] < '0' || at[6] > '9')
			continue;
		at[strcspn(at, "\n")] = 0;
		if (strlen(at + 1) < sizeof(t->family[0]->name) && asked_for(t, at + 1) &&
		    !known(t, at + 1) && t->n < TOP_FAMILIES)
			attach(t, at + 1);
	}
	if (list)
		fclose(list);
}

void top_close(struct top *t)
{
	while (t->n)
		forget(t, t->n - 1);
}

/* ---- samples ------------------------------------------------------------------------------------------ */

static uint64_t rate(uint64_t now, uint64_t before, uint64_t ns)
{
	if (now <= before || !ns)
		return 0;
	return (uint64_t)((double)(now - before) * 1e9 / (double)ns + 0.5);
}

static void subtract(struct xm_hist *out, const struct xm_hist *now, const struct xm_hist *before)
{
	unsigned top = 0;

	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < XM_HIST_BUCKETS; i++) {
		out->bucket[i] = now->bucket[i] - xm_min(before->bucket[i], now->bucket[i]);
		out->count += out->bucket[i];
		if (out->bucket[i])
			top = i;
	}
	out->sum = now->sum - xm_min(before->sum, now->sum);
	/* the interval's own maximum is not known: the end of its highest bucket, at most the overall one */
	out->max = out->count ? xm_min(xm_hist_bucket_high(top), now->max) : 0;
}

/* Where the interval's faults spent their time; what was not sampled in it is taken from the time before. */
static void sample_parts(struct top_rates *r, const struct xm_proc_stats *now, const struct xm_proc_stats *before)
{
	static struct xm_hist diff[XM_PARTS];
	uint64_t ns[XM_PARTS], all = 0;

	for (int i = 0; i < XM_PARTS; i++) {
		bool sampled = i == XM_PART_DELIVERY || i == XM_PART_RETURN;

		subtract(&diff[i], &xm_stats_parts(now)[i], &xm_stats_parts(before)[i]);
		if (sampled && !diff[i].count)
			diff[i] = xm_stats_parts(now)[i];
	}
	for (int i = 0; i < XM_PARTS; i++)
		all += ns[i] = xm_stats_part_ns(diff, (enum xm_part)i);
	for (int i = 0; i < XM_PARTS; i++)
		r->part_percent[i] = all ? (unsigned)((ns[i] * 100 + all / 2) / all) : 0;
}

static void sample_rates(struct top_family *v, uint64_t ns)
{
	const struct xm_proc_stats *a = &v->before.total, *b = &v->now.total;
	struct top_rates *r = &v->rate;
	uint64_t fetched = b->prefetched_pages - a->prefetched_pages;
	struct xm_hist diff;

	r->fetch = rate(b->faults_fetch, a->faults_fetch, ns);
	r->zero = rate(b->faults_zero, a->faults_zero, ns);
	r->write = rate(b->faults_write, a->faults_write, ns);
	r->wait = rate(b->faults_wait, a->faults_wait, ns);
	r->in_bytes = rate(b->fetched_bytes, a->fetched_bytes, ns);
	r->out_bytes = rate(b->written_bytes, a->written_bytes, ns);
	r->evict = rate(b->evicted_pages, a->evicted_pages, ns);
	r->evict_dirty = rate(b->evicted_dirty_pages, a->evicted_dirty_pages, ns);
	r->evict_clean = rate(b->evicted_clean_pages, a->evicted_clean_pages, ns);
	r->evict_zero = rate(b->evicted_zero_pages, a->evicted_zero_pages, ns);
	r->evict_refused = rate(b->evict_refused_pages, a->evict_refused_pages, ns);
	r->reclaim_background = rate(b->reclaim_background, a->reclaim_background, ns);
	r->reclaim_direct = rate(b->reclaim_direct, a->reclaim_direct, ns);
	subtract(&diff, &b->fetch_ns, &a->fetch_ns);
	r->fetch_p50_ns = xm_hist_quantile(&diff, 0.5);
	r->fetch_p99_ns = xm_hist_quantile(&diff, 0.99);
	subtract(&diff, &b->zero_ns, &a->zero_ns);
	r->zero_p50_ns = xm_hist_quantile(&diff, 0.5);
	r->zero_p99_ns = xm_hist_quantile(&diff, 0.99);
	sample_parts(r, b, a);
	r->prefetch_hit_percent = -1;
	if (fetched && b->prefetched_pages >= a->prefetched_pages)
		r->prefetch_hit_percent =
			(int)xm_min((b->prefetch_hit_pages - a->prefetch_hit_pages) * 100 / fetched, 100ull);
}

static int by_resident(const void *pa, const void *pb)
{
	const struct top_process *a = pa, *b = pb;

	if (a->resident_pages != b->resident_pages)
		return a->resident_pages < b->resident_pages ? 1 : -1;
	return a->index < b->index ? -1 : a->index > b->index;
}

static void sample_processes(struct top_family *v, uint64_t ns)
{
	uint32_t high = xm_min(xm_load(&v->f->procs_high), (uint32_t)XM_MAX_PROCS);

	v->nprocesses = 0;
	for (uint32_t i = 0; i < high; i++) {
		const struct xm_proc *p = &v->f->proc[i];
		struct top_process *row = &v->process[v->nprocesses];
		uint64_t fetch = xm_load_relaxed(&p->stats.faults_fetch);
		uint64_t zero = xm_load_relaxed(&p->stats.faults_zero);
		uint64_t evict = xm_load_relaxed(&p->stats.evicted_pages);
		bool same = v->seen[i].joined_ns == p->joined_ns;

		if (xm_load(&p->state) != XM_PROC_LIVE)
			continue;
		row->index = i;
		row->pid = p->pid;
		xm_snprintf(row->comm, sizeof(row->comm), "%.15s", p->comm);
		row->resident_pages = xm_load_relaxed(&p->stats.resident_pages);
		row->remote_pages = xm_load_relaxed(&p->stats.remote_pages);
		row->fetch_per_s = same ? rate(fetch, v->seen[i].fetch, ns) : 0;
		row->zero_per_s = same ? rate(zero, v->seen[i].zero, ns) : 0;
		row->evict_per_s = same ? rate(evict, v->seen[i].evict, ns) : 0;
		row->fetch_p99_ns = xm_hist_quantile(&p->stats.fetch_ns, 0.99);
		v->seen[i].joined_ns = p->joined_ns;
		v->seen[i].fetch = fetch;
		v->seen[i].zero = zero;
		v->seen[i].evict = evict;
		v->nprocesses++;
	}
	qsort(v->process, (size_t)v->nprocesses, sizeof(v->process[0]), by_resident);
}

static void remember(struct top_family *v)
{
	if (v->nhistory == TOP_HISTORY)
		memmove(v->history, v->history + 1, (TOP_HISTORY - 1) * sizeof(v->history[0]));
	else
		v->nhistory++;
	v->history[v->nhistory - 1] = v->rate.fetch + v->rate.zero + v->rate.write;
}

void top_sample(struct top *t)
{
	for (int i = 0; i < t->n; i++) {
		struct top_family *v = t->family[i];
		uint64_t now = xm_now_ns(), ns;

		v->before = v->now;
		v->before_ns = v->sampled_ns;
		xm_stats_sum(v->f, &v->now);
		v->sampled_ns = now;
		/* the first look has nothing to compare with */
		if (!v->before_ns)
			v->before = v->now;
		ns = v->before_ns ? now - v->before_ns : 0;
		sample_rates(v, ns);
		sample_processes(v, ns);
		if (ns)
			remember(v);
	}
}

const char *top_title(const struct top_family *v)
{
	static char text[16];
	uint32_t high = xm_min(xm_load(&v->f->procs_high), (uint32_t)XM_MAX_PROCS);
	const struct xm_proc *best = NULL;

	/* the oldest that lives, or else the oldest of all */
	for (uint32_t i = 0; i < high; i++) {
		const struct xm_proc *p = &v->f->proc[i];
		bool live = xm_load(&p->state) == XM_PROC_LIVE;

		if (!p->comm[0] || (best && best->state == XM_PROC_LIVE && !live))
			continue;
		if (!best || (live && best->state != XM_PROC_LIVE) || p->joined_ns < best->joined_ns)
			best = p;
	}
	/* whose command has not started the runtime, or never does, is known to the keeper */
	xm_snprintf(text, sizeof(text), "%.15s", best ? best->comm : v->f->command[0] ? v->f->command : "?");
	return text;
}

bool top_appliance_bytes(const struct top_family *v, uint64_t *used, uint64_t *total)
{
	bool any = false;

	*used = *total = 0;
	for (uint32_t i = 0; i < v->f->cfg.appliances && i < XM_MAX_APPLIANCES; i++) {
		const struct xm_family_appliance *a = &v->f->appliance[i];

		if (!xm_load(&a->valid) || a->status)
			continue;
		*total += a->stat.total_bytes;
		*used += a->stat.total_bytes - xm_min(a->stat.free_bytes, a->stat.total_bytes);
		any = true;
	}
	return any;
}
