# SPDX-License-Identifier: Apache-2.0
# What is special about single test programs; everything else is found by its place (mk/tests.mk).

# unit tests that run an appliance inside their own process (patterns)
APPLIANCE_TESTS := test_appliance% test_link% test_pool% test_session% test_serve%

# unit tests that tsan cannot run: links are mapped and unmapped by raw system calls, which it does not see, so that it takes
# one link that follows another at the same address for a race (test_fault opens and loses many)
TSAN_SKIP := test_fault

# TEST_LIBS_<program>, TEST_LDFLAGS_<program>: extra libraries and link flags of one program
comma := ,
# no memory, for a notice
TEST_LIBS_test_serve_verbs := -Wl,--wrap=malloc
# slabs that take as long as the test likes, and are registered without a device
TEST_LIBS_test_pool := $(addprefix -Wl$(comma)--wrap=xm_,slab_create slab_destroy domain_get domain_put domain_register \
	domain_deregister domain_grant domain_revoke)
# the same, and who holds the registry meanwhile
TEST_LIBS_test_appliance_grants := $(TEST_LIBS_test_pool) -Wl,--wrap=pthread_mutex_lock -Wl,--wrap=pthread_mutex_unlock
# requests that take as long as the test likes, or cannot be given to a thread; rounds of the control thread
TEST_LIBS_test_appliance_jobs := $(TEST_LIBS_test_pool) $(addprefix -Wl$(comma)--wrap=,xm_request_rest epoll_wait malloc \
	pthread_create pthread_join)
# what the runtime and a policy say to each other
TEST_LIBS_test_evict_replay := -Wl,--wrap=xm_evict_find
TEST_LIBS_traps_io := -luring

# both sides of verbs: that speak the protocol by themselves, linked with what the library must not be linked with
TEST_CFLAGS_rdma_raw := -Icommon
TEST_LIBS_rdma_raw = $(LIBXMEM_A) -lxxhash -linih -libverbs -lrdmacm
TEST_CFLAGS_rdma_share := -Icommon
TEST_LIBS_rdma_share = $(TEST_LIBS_rdma_raw)
TEST_CFLAGS_rdma_peer := -Icommon
TEST_LIBS_rdma_peer = $(TEST_LIBS_rdma_raw)
$(B)/tests/it/rdma_raw $(B)/tests/it/rdma_share $(B)/tests/it/rdma_peer: $(B)/libxmem.a
