/* SPDX-License-Identifier: Apache-2.0 */
/* api_fixture.h - for the tests of xmem.h: an appliance of the group's, a runtime opened and closed around a test. */
#ifndef XM_TEST_API_FIXTURE_H
#define XM_TEST_API_FIXTURE_H

#include "tests/harness.h"
#include "xmem.h"

#define PAGE XM_PAGE_SIZE
#define SLAB (4ull << 20)
#define BUDGET (8ull << 20)

static struct test_appliance appliance;
static struct xmem *x;
static const char *uris[] = { appliance.uri, NULL };

static struct xmem_options options(void)
{
	return (struct xmem_options){ .size = sizeof(struct xmem_options), .local_bytes = BUDGET, .appliances = uris,
				      .stall_ns = 1000000000, .lost_timeout_ns = 1000000000 };
}

static int group_setup(void **state)
{
	test_appliance_start(&appliance, "64M", "shm");
	return 0;
}

static int group_teardown(void **state)
{
	return test_appliance_stop(&appliance);
}

static int open_it(void **state)
{
	struct xmem_options o = options();
	int err = 0;

	x = xmem_open(&o, &err);
	return x ? 0 : -1;
}

static int close_it(void **state)
{
	xmem_close(x);
	x = NULL;
	return 0;
}

#endif
