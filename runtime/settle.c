/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle.c - the last step of everything that owns a BUSY page, in the one order that survives a SIGKILL:
 *
 *   word settled -> slot put, if the word does not name it any more -> sleeper woken
 *
 * The other way round the word of a process killed in between would still name a slot that it has put: whoever reaps
 * it would put it again, and a slot shared with a parent or child would be given to somebody else while it is in use.
 * A kill between word and put leaves a slot that nobody names until the family ends: neighbouring instructions, without
 * a system call in between.
 *
 * Any thread; no lock. Also the order of a batch.
 */
#include "runtime/internal.h"
#include "runtime/uffd.h"

void xm_page_wake(struct xm_runtime *rt, uint64_t page)
{
	xm_waiters_end(rt, page);
	if (rt->by_signal)
		xm_fault_wake(rt, page);
	else
		xm_uffd_wake(rt->uffd, xm_page_addr(page), XM_PAGE_SIZE);
}

static void put_and_wake(struct xm_runtime *rt, uint64_t page, bool wake, uint64_t slot)
{
	if (slot != XM_NO_SLOT)
		xm_slots_put(rt->fam, slot);
	if (wake)
		xm_page_wake(rt, page);
}

static uint64_t slot_named(xm_pte word)
{
	return word & XM_PG_HAS_SLOT ? xm_pg_slot(word) : XM_NO_SLOT;
}

void xm_page_settle(struct xm_runtime *rt, uint64_t page, xm_pte to)
{
	uint64_t had = slot_named(xm_pg_load(&rt->pt[page]));
	bool wake = xm_pg_finish(&rt->pt[page], to);

	put_and_wake(rt, page, wake, had == slot_named(to) ? XM_NO_SLOT : had);
}

void xm_page_forget(struct xm_runtime *rt, uint64_t page)
{
	uint64_t had = slot_named(xm_pg_load(&rt->pt[page]));
	bool wake = xm_pg_clear(&rt->pt[page]);

	put_and_wake(rt, page, wake, had);
}

void xm_worker_sort(struct xm_worker *w, int n)
{
	for (int gap = n / 2; gap > 0; gap /= 2) {
		for (int i = gap; i < n; i++) {
			uint64_t page = w->page[i];
			xm_pte word = w->word[i];
			int j = i;

			for (; j >= gap && w->page[j - gap] > page; j -= gap) {
				w->page[j] = w->page[j - gap];
				w->word[j] = w->word[j - gap];
			}
			w->page[j] = page;
			w->word[j] = word;
		}
	}
}
