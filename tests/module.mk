# SPDX-License-Identifier: Apache-2.0
# What is special about single test programs; everything else is found by its place (mk/tests.mk).

# unit tests that run an appliance inside their own process (patterns)
APPLIANCE_TESTS := test_appliance% test_link% test_pool% test_session% test_serve%

# unit tests that tsan cannot run
TSAN_SKIP :=

# TEST_LIBS_<program>, TEST_LDFLAGS_<program>: extra libraries and link flags of one program
TEST_LIBS_traps_io := -luring
