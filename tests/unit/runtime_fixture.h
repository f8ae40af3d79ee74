/* SPDX-License-Identifier: Apache-2.0 */
/* runtime_fixture.h - what tests of mappings share: one appliance and one runtime for all of a program, and mappings in it. */
#ifndef XM_TEST_RUNTIME_FIXTURE_H
#define XM_TEST_RUNTIME_FIXTURE_H

#include "tests/harness.h"

static struct test_appliance appliance;

static void group_start(const struct test_config *c, const char *memory)
{
	test_appliance_start(&appliance, memory, "shm");
	test_runtime_start(c, &appliance, 1);
}

static int group_teardown(void **state)
{
	test_runtime_stop();
	return test_appliance_stop(&appliance);
}

static int nothing_left(void **state)
{
	return test_left_over() ? -1 : 0;
}

static char *map(uint64_t pages, int prot)
{
	char *p = xm_map_new(pages * XM_PAGE_SIZE, 0, prot, 0);

	assert_false(test_is_error(p));
	return p;
}

#endif
