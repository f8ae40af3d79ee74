/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c - which stream a fault belongs to: stream.h. */
#include "runtime/stream.h"

#include <string.h>

#define NOWHERE UINT64_MAX /* no page has that number */

/* ---- fetches ------------------------------------------------------------------------------------------------ */

/* Whether a fault on page means that the last run was used up. Between its end and the page there may be pages that were
 * resident already. */
static bool run_was_used(const struct xm_stream *s, uint64_t page)
{
	int64_t ahead = (int64_t)(page - s->run_next), reach = XM_PREFETCH_MAX * s->run_stride;

	if (s->run_stride > 0 ? ahead < 0 || ahead > reach : ahead > 0 || ahead < reach)
		return false;
	return ahead % s->run_stride == 0;
}

static bool is_mark(const struct xm_stream *s, uint64_t page)
{
	return page == s->run_mark && page != s->run_first;
}

static bool in_run(const struct xm_stream *s, uint64_t page)
{
	return s->run_stride > 0 ? page >= s->run_first && page < s->run_next :
				   page <= s->run_first && page > s->run_next;
}

/* How far page is from the last run, either way; 0: in it. */
static uint64_t distance(const struct xm_stream *s, uint64_t page)
{
	uint64_t low = xm_min(s->run_first, s->run_next), high = xm_max(s->run_first, s->run_next);

	return page < low ? low - page : page > high ? page - high : 0;
}

/* The stream that expects just this page; else one of which it is the continuation over pages that were there; else the
 * nearest of those that have nothing outstanding: the fault is a stray one to the others. */
static struct xm_stream *find(struct xm_streams *set, uint64_t page)
{
	struct xm_stream *best = NULL;
	uint64_t least = XM_STREAM_NEAR + 2;

	for (struct xm_stream *s = set->way; s < set->way + XM_STREAM_WAYS; s++) {
		uint64_t d;

		if (!s->fetches)
			continue;
		if (page == s->run_next || is_mark(s, page))
			return s;
		d = run_was_used(s, page) ? 0 : s->run_pages ? UINT64_MAX : distance(s, page) + 1;
		if (d < least) {
			least = d;
			best = s;
		}
	}
	return best;
}

/* How good a stream is to replace; the least is replaced. */
static uint64_t worth(const struct xm_streams *set, const struct xm_stream *s)
{
	uint32_t idle = set->clock - s->used;

	if (!s->fetches)
		return 0;
	return (s->fetches > 1 && idle < XM_STREAM_STALE ? 2ull << 32 : 1ull << 32) - idle;
}

/* A stream with the habits of the one before. Its window is taken away: here nothing has been seen to follow. */
static struct xm_stream *begin(struct xm_streams *set, const struct xm_prefetch_ops *ops, uint64_t page,
			       struct xm_stream_judged *judged)
{
	struct xm_stream *last = set->last, *s = set->way;

	for (struct xm_stream *o = s + 1; o < set->way + XM_STREAM_WAYS; o++)
		if (worth(set, o) < worth(set, s))
			s = o;
	judged->waste += s->run_pages;
	if (!last)
		ops->init(s->prefetch);
	else if (s != last)
		memcpy(s->prefetch, last->prefetch, sizeof(s->prefetch));
	ops->waste(s->prefetch, XM_PREFETCH_MAX);
	s->run_first = s->run_mark = page;
	s->run_next = page + 1;
	s->run_stride = 1;
	s->run_pages = s->run_last = 0;
	s->run_protected = s->run_behind = s->run_writes = 0;
	s->run_writable = s->guess = false;
	s->fetches = 0;
	return s;
}

static void judge(struct xm_stream *s, const struct xm_prefetch_ops *ops, uint64_t page, struct xm_stream_judged *judged)
{
	bool marked = is_mark(s, page), used = marked || run_was_used(s, page);
	uint64_t to_come = marked ? s->run_last - s->run_last / XM_STREAM_MARK : 0, n = s->run_pages - xm_min(to_come, s->run_pages);

	(used ? ops->hit : ops->waste)(s->prefetch, n);
	*(used ? &judged->hit : &judged->waste) += n;
	s->run_pages -= n;
	s->run_last = 0;
	s->run_mark = s->run_first; /* it says so once */
}

/* marked: the reader is at the mark */
static bool writes(const struct xm_stream *s, bool marked, bool write)
{
	/* of the protected pages that were passed since the last fetch, and this one; a writable run has one, and shows there a
	 * program that loads before it stores */
	uint32_t seen = s->run_protected + (marked ? 0 : s->run_behind) + write;

	return seen ? (s->run_writes + write) * 2 > seen : s->run_writable;
}

/* Where the advised pages are. */
static void place(const struct xm_stream *s, uint64_t page, bool marked, struct xm_stream_advice *a)
{
	a->ahead = marked && a->count && a->stride == s->run_stride;
	a->from = a->ahead ? s->run_next - (uint64_t)a->stride : page;
	if (a->ahead && a->stride < 0)
		a->count = (int32_t)xm_min((uint64_t)a->count, a->from / (uint64_t)-a->stride);
	a->leave = a->from;
}

/* Where the policy advises nothing: what the program says, else the page's neighbour, if that is not the second of the two by
 * itself. Nothing at all where it says that it has no order. */
static void guess(struct xm_streams *set, const struct xm_prefetch_ops *ops, const struct xm_stream_fault *f,
		  struct xm_stream_advice *a)
{
	bool second = xm_neighbour_asked(&set->neighbour, f->page);

	if (f->pattern == XM_PATTERN_RANDOM)
		a->count = 0;
	if (ops == &xm_prefetch_none || f->pattern == XM_PATTERN_RANDOM || a->count)
		return;
	if (f->pattern == XM_PATTERN_SEQUENTIAL)
		a->count = XM_STREAM_GUESS;
	else if (!second && !f->alone && xm_neighbour_comes(&set->neighbour, f->page))
		a->count = 1;
	if (!a->count)
		return;
	a->guess = true;
	a->neighbour = f->pattern != XM_PATTERN_SEQUENTIAL;
	a->stride = 1;
	a->from = a->leave = f->page;
}

struct xm_stream *xm_stream_fetch(struct xm_streams *set, const struct xm_prefetch_ops *ops, const struct xm_stream_fault *f,
				  struct xm_stream_advice *advice, struct xm_stream_judged *judged)
{
	struct xm_stream *s = find(set, f->page);
	struct xm_prefetch_advice a;
	uint32_t came_to_use;
	bool marked = false;

	judged->waste += set->neighbour.came;
	came_to_use = xm_neighbour_judge(&set->neighbour);
	judged->waste -= came_to_use;
	judged->hit += came_to_use;
	if (s) {
		marked = is_mark(s, f->page);
		judge(s, ops, f->page, judged);
	} else {
		s = begin(set, ops, f->page, judged);
	}
	for (uint64_t at = s->run_first + 1; s->guess && f->page == s->run_next && at < f->page; at++)
		ops->fault(s->prefetch, at); /* so it would have been */
	a = ops->fault(s->prefetch, f->page);
	s->used = ++set->clock;
	s->fetches++;
	set->last = s;
	*advice = (struct xm_stream_advice){ .stride = a.stride ? a.stride : 1, .count = a.count, .page = f->page, .stamp = s->used };
	place(s, f->page, marked, advice);
	advice->writable = advice->count > 0 && writes(s, marked, f->write);
	advice->written = s->run_writes;
	guess(set, ops, f, advice);
	return s;
}

void xm_stream_began(struct xm_streams *set, struct xm_stream *s, const struct xm_stream_advice *advice, int pages, int protected,
		     int behind)
{
	uint64_t page = advice->page;

	if (advice->neighbour) {
		set->neighbour.came += (uint32_t)pages;
		pages = 0;
	}
	if (s->used != advice->stamp) {
		/* the reader was faster, and fetched there itself */
		if (in_run(s, advice->from + (uint64_t)advice->stride))
			s->run_pages += (uint64_t)pages;
		return;
	}
	s->run_writes -= advice->written; /* not all: the reader may be at it again */
	s->run_protected = (uint32_t)protected + (advice->ahead ? s->run_behind : 0);
	s->run_behind = (uint32_t)behind;
	s->run_writable = advice->writable;
	s->guess = advice->guess;
	s->run_pages += (uint64_t)pages;
	s->run_last = (uint32_t)pages;
	s->run_stride = advice->stride;
	s->run_first = page;
	s->run_mark = advice->leave == advice->from ? page : advice->leave;
	s->run_next = advice->from + (uint64_t)(s->run_stride * (advice->count + 1));
	if (s->run_stride < 0 && s->run_next > page)
		s->run_next = 0; /* it has reached the first page: nothing is behind it */
}

void xm_stream_wrote(struct xm_streams *set, uint64_t page, uint64_t n)
{
	for (struct xm_stream *s = set->way; s < set->way + XM_STREAM_WAYS; s++) {
		if (!s->fetches || !in_run(s, page))
			continue;
		s->run_writes += (uint32_t)n;
		return;
	}
}

/* ---- runs that need no fetch ---------------------------------------------------------------------------------- */

/* Those go first that were seen only once, or not for long. */
static bool goes_before(const struct xm_streams *set, const struct xm_run *a, const struct xm_run *b)
{
	uint32_t idle_a = set->clock - a->used, idle_b = set->clock - b->used;
	bool keep_a = a->pages > 1 && idle_a < XM_RUN_STALE, keep_b = b->pages > 1 && idle_b < XM_RUN_STALE;

	return keep_a != keep_b ? keep_b : idle_a > idle_b;
}

static bool near_above(uint64_t from, uint64_t page, uint64_t gap)
{
	return from != NOWHERE && page - from <= gap;
}

/* gap: pages that a run passes over */
static int64_t follow(struct xm_streams *set, struct xm_run *all, uint64_t page, uint64_t gap, uint64_t most)
{
	struct xm_run *r = all;
	uint64_t pages = 1;
	bool down = false;

	for (struct xm_run *o = all; o < all + XM_STREAM_RUNS; o++) {
		bool up = near_above(o->up, page, gap);

		if (o->pages && (up || (o->down != NOWHERE && near_above(page, o->down, gap)))) {
			down = !up;
			pages = o->pages * 2;
			r = o;
			break;
		}
		if (goes_before(set, o, r))
			r = o;
	}
	pages = xm_max(xm_min(pages, most), 1ull);
	if (down)
		pages = xm_min(pages, page + 1);
	/* a run goes on as it went; one page may be the beginning of either */
	r->up = down ? NOWHERE : page + pages;
	r->down = down || pages == 1 ? page - pages : NOWHERE;
	r->pages = pages;
	r->used = ++set->clock;
	return down ? -(int64_t)pages : (int64_t)pages;
}

int64_t xm_stream_touch(struct xm_streams *set, uint64_t page, uint64_t most)
{
	return follow(set, set->touch, page, 0, most);
}

int64_t xm_stream_write(struct xm_streams *set, uint64_t page, uint64_t most)
{
	return follow(set, set->write, page, XM_WRITE_GAP, most);
}
