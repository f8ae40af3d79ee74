/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.c - the public calls: arguments are checked here, work is done in region.c, mapping.c, advice.c. Any program
 * thread. One handle a process; its list of regions is under list_lock.
 */
#include "xmem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/internal.h"
#include "runtime/region.h"
#include "runtime/start.h"
#include "units.h"

#define BUDGET_MIN_BYTES (4ull << 20)
#define DEFAULT_WAIT_NS 10000000000ull

#ifndef XM_VERSION
#define XM_VERSION "0.1.0"
#endif

struct xmem {
	bool open;
	int pid;     /* who opened it: a forked child's copy is of no use */
	bool shared; /* the runtime is xmem-run's, not ours to stop */
	struct xmem_region *regions;
	struct xm_peer *peer[XM_MAX_APPLIANCES]; /* hold the sessions while the family lives */
};

static struct xmem handle;
static struct xm_lock list_lock = { 0, XM_RANK_LIST };

/* Opened, and by this very process. */
static bool usable(const struct xmem *x)
{
	return x && x->open && x->pid == xm_sys_getpid();
}

static void *fail(int *err, int rc)
{
	if (err)
		*err = rc;
	return NULL;
}

static int bad_appliances(void)
{
	xm_err("xmem_open: appliances must be 1 to %d URIs of less than 200 bytes, and then NULL", XM_MAX_APPLIANCES);
	return -EINVAL;
}

static int fill_config(const struct xmem_options *o, struct xm_family_config *cfg)
{
	char budget[24], machine[24];
	unsigned n = 0;

	memset(cfg, 0, sizeof(*cfg));
	cfg->budget_bytes = o->local_bytes ? o->local_bytes : xm_machine_memory_bytes() / 2;
	cfg->verify = o->verify;
	cfg->stall_ns = o->stall_ns ? o->stall_ns : DEFAULT_WAIT_NS;
	cfg->lost_timeout_ns = o->lost_timeout_ns ? o->lost_timeout_ns : DEFAULT_WAIT_NS;
	cfg->log_level = XM_LOG_WARN;
	if (cfg->budget_bytes < BUDGET_MIN_BYTES) {
		xm_err("xmem_open: local budget of %llu bytes is below the minimum of 4 MiB",
		       (unsigned long long)cfg->budget_bytes);
		return -ENOMEM;
	}
	if (cfg->budget_bytes > xm_machine_memory_bytes()) {
		xm_err("xmem_open: local budget of %s is more than this machine's memory, %s",
		       xm_format_size(cfg->budget_bytes, budget, sizeof(budget)),
		       xm_format_size(xm_machine_memory_bytes(), machine, sizeof(machine)));
		return -EINVAL;
	}
	if ((o->evict && !xm_evict_find(o->evict)) || (o->prefetch && !xm_prefetch_find(o->prefetch))) {
		xm_err("xmem_open: no such policy: %s", o->evict && !xm_evict_find(o->evict) ? o->evict : o->prefetch);
		return -EINVAL;
	}
	xm_snprintf(cfg->evict, sizeof(cfg->evict), "%s", o->evict ? o->evict : "");
	xm_snprintf(cfg->prefetch, sizeof(cfg->prefetch), "%s", o->prefetch ? o->prefetch : "");
	for (; o->appliances && o->appliances[n]; n++) {
		if (n == XM_MAX_APPLIANCES || strlen(o->appliances[n]) >= sizeof(cfg->appliance[0].uri))
			return bad_appliances();
		xm_snprintf(cfg->appliance[n].uri, sizeof(cfg->appliance[n].uri), "%s", o->appliances[n]);
	}
	cfg->appliances = n;
	return n ? 0 : bad_appliances();
}

/* The sessions are made here, so that all processes of this program attach to the same ones. */
static int open_sessions(struct xm_family_config *cfg, uint64_t *offered)
{
	char why[256] = "";

	for (unsigned a = 0; a < cfg->appliances; a++) {
		struct xm_peer_config pc = { .uri = cfg->appliance[a].uri, .client_name = "xmem_open",
					     .lost_timeout_ns = cfg->lost_timeout_ns, .place_fd = xm_fd_place };
		struct xm_link_path path;
		struct xm_peer_info info;
		int rc = xm_peer_open(&pc, &handle.peer[a], why);

		if (rc < 0) {
			xm_err("xmem_open: %s", why);
			return rc;
		}
		rc = xm_peer_check(handle.peer[a], 3, XM_STAGING_BYTES, &path, why); /* two handlers, and reclaim */
		if (rc < 0) {
			xm_err("xmem_open: %s", why);
			return rc;
		}
		xm_peer_info(handle.peer[a], &info);
		cfg->appliance[a].session = info.session;
		*offered += info.total_bytes;
	}
	return 0;
}

static void close_sessions(void)
{
	for (unsigned a = 0; a < XM_MAX_APPLIANCES; a++) {
		xm_peer_close(handle.peer[a]);
		handle.peer[a] = NULL;
	}
}

static int open_own(const struct xmem_options *o)
{
	struct xm_family_config cfg;
	struct xm_family *fam;
	uint64_t offered = 0;
	int rc = fill_config(o, &cfg), err = 0;

	if (rc == 0)
		rc = open_sessions(&cfg, &offered);
	if (rc < 0)
		goto fail;
	xm_fd_borrow();
	fam = xm_family_create(&cfg, NULL, &err);
	xm_fd_return();
	if (!fam) {
		rc = err;
		xm_err("xmem_open: cannot make the shared state: %s", xm_strerror(rc));
		goto fail;
	}
	fam->commit_limit_pages = (offered + cfg.budget_bytes) >> XM_PAGE_SHIFT;
	rc = xm_runtime_start(fam, NULL);
	if (rc == 0)
		return 0;
	xm_store(&xm_rt.state, 0); /* the next xmem_open may try again */
	xm_family_unmap(fam);
fail:
	close_sessions();
	return rc;
}

struct xmem *xmem_open(const struct xmem_options *o, int *err)
{
	int before = xm_runtime_state(), rc;
	bool below_run = getenv(XM_ENV_FAMILY) != NULL || before == 1;

	if (!o || o->size != sizeof(*o)) {
		xm_err("xmem_open: options are missing, or their size member is not sizeof(struct xmem_options)");
		return fail(err, -EINVAL);
	}
	xm_lock(&list_lock);
	if (handle.open) {
		xm_unlock(&list_lock);
		xm_err("xmem_open: open already in this process");
		return fail(err, -EALREADY);
	}
	xm_in_runtime++;
	xm_log_init("xmem", XM_LOG_WARN);
	rc = below_run ? xm_runtime_start_env() : open_own(o);
	xm_in_runtime--;
	if (rc < 0 && before < 0) /* what was said then may be long ago */
		xm_err("xmem_open: external memory cannot be started in this process: %s", xm_strerror(rc));
	handle.open = rc == 0;
	handle.pid = xm_sys_getpid();
	handle.shared = below_run;
	xm_unlock(&list_lock);
	return rc < 0 ? fail(err, rc) : &handle;
}

void xmem_close(struct xmem *x)
{
	if (!usable(x))
		return;
	while (x->regions)
		xmem_region_release(x->regions);
	xm_in_runtime++;
	if (!x->shared) {
		xm_runtime_stop();
		close_sessions();
	}
	xm_in_runtime--;
	x->open = false;
}

/* ---- regions ---------------------------------------------------------------------------------------------------- */

struct xmem_region *xmem_region_create(struct xmem *x, unsigned appliance, uint64_t bytes, const char *name, int *err)
{
	struct xmem_region *r = NULL;
	int rc;

	if (!usable(x))
		return fail(err, -EINVAL);
	xm_in_runtime++;
	rc = xm_region_create(&xm_rt, appliance, bytes, name, &r);
	xm_in_runtime--;
	if (rc < 0)
		return fail(err, rc);
	xm_lock(&list_lock);
	r->next = x->regions;
	x->regions = r;
	xm_unlock(&list_lock);
	return r;
}

void xmem_region_release(struct xmem_region *r)
{
	struct xmem_region **at = &handle.regions;

	if (!r || !usable(&handle))
		return;
	xm_lock(&list_lock);
	while (*at && *at != r)
		at = &(*at)->next;
	if (*at)
		*at = r->next;
	xm_unlock(&list_lock);
	xm_in_runtime++;
	xm_region_destroy(&xm_rt, r);
	xm_in_runtime--;
}

int xmem_region_resize(struct xmem_region *r, uint64_t bytes)
{
	int rc;

	if (!r || !usable(&handle))
		return -EINVAL;
	xm_in_runtime++;
	rc = xm_region_resize(&xm_rt, r, bytes);
	xm_in_runtime--;
	return rc;
}

uint64_t xmem_region_bytes(const struct xmem_region *r)
{
	return r ? xm_load(&r->bytes) : 0;
}

static void *use(struct xmem_region *r, int kind, uint64_t offset, uint64_t len, int *err)
{
	int rc;

	xm_in_runtime++;
	rc = xm_region_use(&xm_rt, r, kind, &offset, len);
	xm_in_runtime--;
	return rc < 0 ? fail(err, rc) : (void *)(r->base + offset);
}

void *xmem_map(struct xmem_region *r, uint64_t offset, uint64_t len, int *err)
{
	if (!r || !usable(&handle) || !len || offset % XM_PAGE_SIZE || len % XM_PAGE_SIZE)
		return fail(err, -EINVAL);
	return use(r, 2, offset, len, err);
}

void *xmem_alloc(struct xmem_region *r, uint64_t bytes, int *err)
{
	uint64_t len = xm_round_up(bytes, XM_PAGE_SIZE);

	if (!r || !usable(&handle) || !bytes || len < bytes)
		return fail(err, -EINVAL);
	return use(r, 1, 0, len, err);
}

static int unuse(struct xmem_region *r, int kind, void *addr, uint64_t len, bool keep)
{
	uint64_t at = (uint64_t)(uintptr_t)addr;
	int rc;

	if (!r || !usable(&handle) || at < r->base || at >= r->base + r->span || at % XM_PAGE_SIZE || len % XM_PAGE_SIZE ||
	    (kind == 2 && !len))
		return -EINVAL;
	xm_in_runtime++;
	rc = xm_region_unuse(&xm_rt, r, kind, at - r->base, len, keep);
	xm_in_runtime--;
	return rc;
}

int xmem_unmap(struct xmem_region *r, void *addr, uint64_t len)
{
	return unuse(r, 2, addr, len, true);
}

int xmem_free(struct xmem_region *r, void *portion)
{
	return unuse(r, 1, portion, 0, false);
}

/* ---- advice, statistics ------------------------------------------------------------------------------------------- */

static int kernel_advice(enum xmem_advice advice)
{
	switch (advice) {
	case XMEM_PREFETCH:
		return MADV_WILLNEED;
	case XMEM_EVICT:
	case XMEM_FLUSH:
		return 21; /* MADV_PAGEOUT */
	case XMEM_COLD:
		return 20; /* MADV_COLD */
	case XMEM_SEQUENTIAL:
		return MADV_SEQUENTIAL;
	case XMEM_RANDOM:
		return MADV_RANDOM;
	case XMEM_NORMAL:
		return MADV_NORMAL;
	case XMEM_DISCARD:
		return MADV_DONTNEED;
	}
	return -1;
}

static bool good_range(const struct xmem *x, const void *addr, uint64_t len)
{
	return usable(x) && len && xm_ext_contains(addr) && xm_ext_contains((const char *)addr + len - 1);
}

int xmem_advise(struct xmem *x, void *addr, uint64_t len, enum xmem_advice advice)
{
	int how = kernel_advice(advice);

	int rc;

	if (!good_range(x, addr, len) || how < 0 || len % XM_PAGE_SIZE)
		return -EINVAL;
	if (advice != XMEM_FLUSH)
		return xm_map_advise(addr, len, how);
	if ((uintptr_t)addr % XM_PAGE_SIZE)
		return -EINVAL;
	xm_in_runtime++;
	rc = xm_reclaim_all(&xm_rt, xm_page_of(addr), xm_round_up(len, XM_PAGE_SIZE) >> XM_PAGE_SHIFT);
	xm_in_runtime--;
	return rc;
}

int xmem_pin(struct xmem *x, void *addr, uint64_t len)
{
	return good_range(x, addr, len) ? xm_map_lock(addr, len) : -EINVAL;
}

int xmem_unpin(struct xmem *x, void *addr, uint64_t len)
{
	return good_range(x, addr, len) ? xm_map_unlock(addr, len) : -EINVAL;
}

int xmem_get_stats(struct xmem *x, struct xmem_stats *out)
{
	struct xm_runtime *rt = &xm_rt;
	const struct xm_proc_stats *s;
	uint64_t messages = 0;

	if (!usable(x) || !out || out->size != sizeof(*out))
		return -EINVAL;
	s = &rt->me->stats;
	for (unsigned a = 0; a < rt->fam->cfg.appliances; a++)
		messages += xm_peer_control_messages(rt->peer[a]);
	*out = (struct xmem_stats){
		.size = sizeof(*out),
		.budget_bytes = rt->fam->budget_pages << XM_PAGE_SHIFT,
		.resident_bytes = xm_load(&rt->fam->resident_pages) << XM_PAGE_SHIFT,
		.resident_bytes_max = xm_load(&rt->fam->resident_pages_max) << XM_PAGE_SHIFT,
		.remote_bytes = xm_load(&s->remote_pages) << XM_PAGE_SHIFT,
		.faults_zero = xm_load(&s->faults_zero),
		.faults_fetch = xm_load(&s->faults_fetch),
		.faults_write = xm_load(&s->faults_write),
		.fetched_pages = xm_load(&s->fetched_pages),
		.prefetched_pages = xm_load(&s->prefetched_pages),
		.evicted_pages = xm_load(&s->evicted_pages),
		.evicted_dirty_pages = xm_load(&s->evicted_dirty_pages),
		.evicted_clean_pages = xm_load(&s->evicted_clean_pages),
		.evicted_zero_pages = xm_load(&s->evicted_zero_pages),
		.fetched_bytes = xm_load(&s->fetched_bytes),
		.written_bytes = xm_load(&s->written_bytes),
		.install_calls = xm_load(&s->install_calls),
		.control_messages = messages,
		.fetch_p50_ns = xm_hist_quantile(&s->fetch_ns, 0.5),
		.fetch_p99_ns = xm_hist_quantile(&s->fetch_ns, 0.99),
		.fetch_max_ns = xm_load_relaxed(&s->fetch_ns.max),
	};
	return 0;
}

const char *xmem_strerror(int err)
{
	return xm_strerror(err);
}

const char *xmem_version(void)
{
	return XM_VERSION;
}
