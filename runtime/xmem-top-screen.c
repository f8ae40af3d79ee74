/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xmem-top-screen.c - the screen: one family at a time, its budget, rates and latencies of the last interval,
 * a strip of recent history, and its processes. Works from 60 columns and 16 lines up; redraws whole.
 *
 *   xmem-top  redis-server  family 1 of 2  keeper 4711                    14:03:07
 *   local     [||||||||||||||||||||||||||      ]  198 MiB of 256 MiB
 *   remote    [|||||||                         ]  1.02 GiB; appliances 1.1 of 15 GiB
 *   faults ...
 *   PID  COMMAND  RESIDENT  REMOTE  FETCH/s  FIRST/s  EVICT/s  P99
 */
#include "runtime/xmem-top.h"

#include <errno.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "units.h"

enum color { PLAIN, TITLE, LOCAL_BAR, REMOTE_BAR, LABEL, BAD, GOOD };

struct screen {
	struct top *t;
	int chosen; /* family */
	int scroll; /* first process shown */
	int line;
	bool frozen; /* space: the figures stand still */
};

static void color(enum color c)
{
	attrset(has_colors() ? COLOR_PAIR(c) | (c == TITLE || c == BAD ? A_BOLD : 0)
		: c == TITLE ? A_BOLD
			     : A_NORMAL);
}

/* At the cursor, cut at the right edge: output would go on in the next line */
static void put(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void put(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	xm_vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	addnstr(text, xm_max(COLS - 1 - getcurx(stdscr), 0));
}

static void label(struct screen *s, const char *text)
{
	color(LABEL);
	mvprintw(s->line, 1, "%-9s", text);
	color(PLAIN);
	move(s->line, 11);
	s->line++;
}

static void bar(const char *text, uint64_t part, uint64_t whole, enum color c)
{
	int width = xm_max(COLS - 52, 8);
	int filled = whole ? (int)(xm_min(part, whole) * (uint64_t)width / whole) : 0;

	addch('[');
	color(c);
	for (int i = 0; i < width; i++)
		addch(i < filled ? '|' : ' ');
	color(PLAIN);
	put("] %s", text);
}

static const char *pages(uint64_t n, char *buf)
{
	return xm_format_size(n << XM_PAGE_SHIFT, buf, 32);
}

static const char *time_or_dash(uint64_t ns, char *buf)
{
	return ns ? xm_format_time(ns, buf, 32) : "-";
}

/* 1234, 56.7k, 8.90M: at most five characters wide */
static const char *short_count(uint64_t v, char *buf)
{
	if (v < 10000)
		xm_snprintf(buf, 32, "%llu", (unsigned long long)v);
	else if (v < 1000000)
		xm_snprintf(buf, 32, "%llu.%lluk", (unsigned long long)(v / 1000),
			    (unsigned long long)(v % 1000 / 100));
	else
		xm_snprintf(buf, 32, "%llu.%02lluM", (unsigned long long)(v / 1000000),
			    (unsigned long long)(v % 1000000 / 10000));
	return buf;
}

static void draw_title(struct screen *s, const struct top_family *v)
{
	time_t now = time(NULL);
	struct tm tm;
	char clock[16] = "";

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	color(TITLE);
	mvhline(0, 0, ' ', COLS);
	mvprintw(0, 1, "xmem-top");
	if (v)
		put("  %s   family %d of %d   keeper %d%s", top_title(v), s->chosen + 1, s->t->n,
		    v->f->keeper_pid, s->frozen ? "   FROZEN" : "");
	if (COLS > 70)
		mvprintw(0, COLS - 10, "%s", clock);
	color(PLAIN);
	s->line = 2;
}

static void draw_memory(struct screen *s, const struct top_family *v)
{
	uint64_t resident = xm_load_relaxed(&v->f->resident_pages), remote = v->now.total.remote_pages;
	uint64_t used, total;
	char a[32], b[32], text[128];
	int coverage = xm_stats_coverage_permille(&v->now.total);

	xm_snprintf(text, sizeof(text), "%s of %s local", pages(resident, a), pages(v->f->budget_pages, b));
	label(s, "local");
	bar(text, resident, v->f->budget_pages, LOCAL_BAR);
	label(s, "remote");
	if (top_appliance_bytes(v, &used, &total)) {
		xm_snprintf(text, sizeof(text), "%s of %s lent", pages(remote, a),
			    xm_format_size(total, b, sizeof(b)));
		bar(text, remote << XM_PAGE_SHIFT, total, REMOTE_BAR);
	} else {
		put("%s", pages(remote, a));
	}
	label(s, "external");
	put("peak %s", pages(v->now.external_pages_max, a));
	if (coverage >= 0)
		put("   coverage %d.%d %%", coverage / 10, coverage % 10);
	if (xm_load_relaxed(&v->f->uncovered)) {
		color(BAD);
		put("   %llu command(s) not covered", (unsigned long long)v->f->uncovered);
		color(PLAIN);
	}
}

/* The largest part stands out. */
static void draw_parts(struct screen *s, const unsigned percent[XM_PARTS])
{
	static const char *const name[XM_PARTS] = { "delivery", "wait", "fetch", "install", "rest", "return" };
	int most = 0;

	label(s, "time in");
	for (int i = 0; i < XM_PARTS; i++)
		most = percent[i] > percent[most] ? i : most;
	for (int i = 0; i < XM_PARTS; i++) {
		attrset(i == most && percent[i] ? A_BOLD : A_NORMAL);
		put("%s %u%%%s", name[i], percent[i], i + 1 < XM_PARTS ? "  " : "");
	}
	color(PLAIN);
}

static void draw_rates(struct screen *s, const struct top_family *v)
{
	const struct top_rates *r = &v->rate;
	char a[32], b[32], c[32], d[32];

	label(s, "faults/s");
	put("fetch %-7s first touch %-7s write %-7s waited %s", short_count(r->fetch, a),
	    short_count(r->zero, b), short_count(r->write, c), short_count(r->wait, d));
	label(s, "handled");
	put("fetch p50 %-9s p99 %-9s", time_or_dash(r->fetch_p50_ns, a), time_or_dash(r->fetch_p99_ns, b));
	put(" first p50 %-9s p99 %s", time_or_dash(r->zero_p50_ns, c), time_or_dash(r->zero_p99_ns, d));
	draw_parts(s, r->part_percent);
	label(s, "moved/s");
	put("in %-11s out %-11s", xm_format_size(r->in_bytes, a, sizeof(a)),
	    xm_format_size(r->out_bytes, b, sizeof(b)));
	if (r->prefetch_hit_percent >= 0)
		put(" prefetch hits %d %%", r->prefetch_hit_percent);
	label(s, "evicted/s");
	put("%-7s (written %s, clean %s, zero %s)", short_count(r->evict, a), short_count(r->evict_dirty, b),
	    short_count(r->evict_clean, c), short_count(r->evict_zero, d));
	put("  in faults %s", short_count(r->reclaim_direct, a));
}

static void draw_history(struct screen *s, const struct top_family *v)
{
	static const char steps[] = " .:-=+*#";
	int width = xm_min(xm_max(COLS - 30, 8), TOP_HISTORY), first = xm_max(v->nhistory - width, 0);
	uint64_t most = 1;
	char a[32];

	for (int i = first; i < v->nhistory; i++)
		most = xm_max(most, v->history[i]);
	label(s, "history");
	color(LOCAL_BAR);
	for (int i = first; i < v->nhistory; i++)
		addch((chtype)steps[v->history[i] ? 1 + v->history[i] * 6 / most : 0]);
	color(PLAIN);
	put(" max %s/s", short_count(most, a));
}

static void draw_trouble(struct screen *s, const struct top_family *v)
{
	const struct xm_proc_stats *t = &v->now.total;
	const struct {
		const char *what;
		uint64_t n;
	} bad[] = { { "lost pages", t->faults_lost },	       { "bad touches", t->faults_bad },
		    { "wrong checksums", t->checksum_errors }, { "link errors", t->link_errors },
		    { "reconnects", t->link_reconnects },      { "stalls", t->stalls } };
	bool any = false;

	label(s, "trouble");
	for (uint32_t i = 0; i < v->f->cfg.appliances && i < XM_MAX_APPLIANCES; i++) {
		if (!v->f->appliance[i].valid || !v->f->appliance[i].status)
			continue;
		color(BAD);
		put("appliance %u: %s   ", i + 1, xm_strerror(v->f->appliance[i].status));
		any = true;
	}
	for (size_t i = 0; i < XM_ARRAY_SIZE(bad); i++) {
		if (!bad[i].n)
			continue;
		color(BAD);
		put("%s %llu   ", bad[i].what, (unsigned long long)bad[i].n);
		any = true;
	}
	if (!any) {
		color(GOOD);
		put("none");
	}
	color(PLAIN);
}

static void draw_processes(struct screen *s, const struct top_family *v)
{
	int room = LINES - s->line - 3;
	char a[32], b[32], c[32], d[32], e[32], f[32];

	s->scroll = xm_max(xm_min(s->scroll, v->nprocesses - room), 0);
	s->line++;
	attrset(A_REVERSE);
	mvhline(s->line, 0, ' ', COLS);
	move(s->line++, 1);
	put("%7s %-15s %10s %10s %7s %7s %7s %8s", "PID", "COMMAND", "RESIDENT", "REMOTE", "FETCH/s",
	    "FIRST/s", "EVICT/s", "P99");
	color(PLAIN);
	for (int i = s->scroll; i < v->nprocesses && s->line < LINES - 1; i++) {
		const struct top_process *p = &v->process[i];

		move(s->line++, 1);
		put("%7d %-15s %10s %10s %7s %7s %7s %8s", p->pid, p->comm, pages(p->resident_pages, a),
		    pages(p->remote_pages, b), short_count(p->fetch_per_s, c), short_count(p->zero_per_s, d),
		    short_count(p->evict_per_s, e), time_or_dash(p->fetch_p99_ns, f));
	}
	color(LABEL);
	move(LINES - 1, 1);
	put("q quit   left/right family   up/down processes   space freeze   %d process%s", v->nprocesses,
	    v->nprocesses == 1 ? "" : "es");
	color(PLAIN);
}

static void draw(struct screen *s)
{
	struct top_family *v;

	if (s->chosen >= s->t->n)
		s->chosen = xm_max(s->t->n - 1, 0);
	v = s->t->n ? s->t->family[s->chosen] : NULL;
	erase();
	draw_title(s, v);
	if (v) {
		draw_memory(s, v);
		draw_rates(s, v);
		draw_history(s, v);
		draw_trouble(s, v);
		draw_processes(s, v);
	} else {
		mvprintw(2, 1, "No family is running%s.",
			 s->t->denied ? " that you may watch (there are some of other users)" : "");
		mvprintw(4, 1, "Start one:  xmem-run --local 256M -- COMMAND");
		mvprintw(LINES - 1, 1, "q quit");
	}
	refresh();
}

/* false: quit */
static bool key(struct screen *s, int k)
{
	switch (k) {
	case 'q':
	case 'Q': return false;
	case KEY_RIGHT:
	case '\t':
		s->chosen = s->chosen + 1 < s->t->n ? s->chosen + 1 : 0;
		s->scroll = 0;
		break;
	case KEY_LEFT:
		s->chosen = s->chosen > 0 ? s->chosen - 1 : xm_max(s->t->n - 1, 0);
		s->scroll = 0;
		break;
	case KEY_DOWN: s->scroll++; break;
	case KEY_UP: s->scroll = xm_max(s->scroll - 1, 0); break;
	case ' ': s->frozen = !s->frozen; break;
	default: break;
	}
	return true;
}

static void colors(void)
{
	if (!has_colors())
		return;
	start_color();
	use_default_colors();
	init_pair(PLAIN, -1, -1);
	init_pair(TITLE, COLOR_WHITE, COLOR_BLUE);
	init_pair(LOCAL_BAR, COLOR_GREEN, -1);
	init_pair(REMOTE_BAR, COLOR_CYAN, -1);
	init_pair(LABEL, COLOR_YELLOW, -1);
	init_pair(BAD, COLOR_RED, -1);
	init_pair(GOOD, COLOR_GREEN, -1);
}

int top_screen(struct top *t, uint64_t interval_ns)
{
	struct screen s = { .t = t };
	SCREEN *term;
	bool go = true;
	uint64_t next = 0;

	setlocale(LC_ALL, "");
	term = newterm(NULL, stdout, stdin);
	if (!term)
		return -ENOTTY;
	cbreak();
	noecho();
	curs_set(0);
	keypad(stdscr, TRUE);
	set_escdelay(25);
	colors();
	while (go) {
		uint64_t now = xm_now_ns();
		int k;

		if (now >= next && !s.frozen) {
			top_refresh(t);
			top_sample(t);
			next = now + interval_ns;
		}
		draw(&s);
		now = xm_now_ns();
		timeout(next > now ? (int)((next - now) / 1000000) + 1 : 100);
		k = getch();
		/* the terminal went away */
		if (k == ERR && (!isatty(0) || errno == EIO))
			break;
		go = k == ERR || key(&s, k);
	}
	endwin();
	delscreen(term);
	return 0;
}
