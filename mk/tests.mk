# SPDX-License-Identifier: Apache-2.0
# Test programs, and the targets that run them. tests/module.mk lists what is special about single programs.

names = $(basename $(notdir $(wildcard $(1))))

UNIT_NAMES := $(call names,tests/unit/test_*.c)
UNIT_HELPERS := $(call objs,$(filter-out $(wildcard tests/unit/test_*.c),$(wildcard tests/unit/*.c)))
UNIT_PROGS := $(UNIT_NAMES:%=$(B)/tests/unit/%)
STRESS_PROGS := $(patsubst %,$(B)/tests/stress/%,$(call names,tests/stress/*.c))
IT_PROGS := $(patsubst %,$(B)/tests/it/%,$(call names,tests/it/*.c))
BENCH_PROGS := $(patsubst %,$(B)/tests/bench/%,$(filter-out bare_preload,$(call names,tests/bench/*.c)))
BARE_SO := $(B)/tests/bench/bare_preload.so
FUZZ_NAMES := $(call names,tests/fuzz/fuzz_*.c)
REPLAY_PROGS := $(FUZZ_NAMES:fuzz_%=$(B)/tests/fuzz/replay_%)
FUZZ_PROGS := $(FUZZ_NAMES:%=$(BUILD)/fuzz/tests/fuzz/%)
EXAMPLE_PROGS := $(patsubst %,$(B)/examples/%,$(call names,tools/examples/*.c))

# The appliance without its main(), for the tests that run one inside their own process.
APPLIANCE_TEST_OBJS := $(filter-out $(B)/obj/appliance/main.o,$(APPLIANCE_OBJS))
APPLIANCE_TEST_A := $(B)/tests/libappliance-test.a

$(APPLIANCE_TEST_A): $(APPLIANCE_TEST_OBJS)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(APPLIANCE_TEST_OBJS)

WITH_APPLIANCE := $(foreach t,$(UNIT_NAMES),$(if $(filter $(APPLIANCE_TESTS),$(t)),$(t)))
$(WITH_APPLIANCE:%=$(B)/tests/unit/%): $(APPLIANCE_TEST_A)

$(UNIT_PROGS): $(B)/tests/unit/%: $(B)/obj/tests/unit/%.o $(UNIT_HELPERS) $(LIBXMEM_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(call link_program,$< $(UNIT_HELPERS) $(filter $(APPLIANCE_TEST_A),$^) $(LIBXMEM_A), \
		-lcmocka $(BASE_LIBS) $(APPLIANCE_LIBS) $(TEST_LIBS_$*) -lm)

$(STRESS_PROGS) $(BENCH_PROGS): $(B)/tests/%: $(B)/obj/tests/%.o $(LIBXMEM_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(call link_program,$< $(LIBXMEM_A),$(BASE_LIBS) $(TEST_LIBS_$(@F)) -lm)

$(BARE_SO): $(B)/obj/tests/bench/bare_preload.o $(LIBXMEM_A)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -o $@ $< $(LIBXMEM_A) -Wl,--exclude-libs,ALL $(ALL_LDFLAGS) $(BASE_LIBS)

# Ordinary programs, which are run under xmem-run: they know nothing of it.
$(IT_PROGS): $(B)/tests/it/%: tests/it/%.c Makefile mk/flags.mk
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g $(WARN) -D_GNU_SOURCE $(TEST_CFLAGS_$*) $(CFLAGS) -MMD -MP -o $@ $< \
		-pthread $(TEST_LDFLAGS_$*) $(LDFLAGS) $(TEST_LIBS_$*)

$(EXAMPLE_PROGS): $(B)/examples/%: tools/examples/%.c include/xmem.h $(B)/libxmem.so
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g $(WARN) -D_GNU_SOURCE -Iinclude -MMD -MP -o $@ $< \
		-L$(B) -lxmem -Wl,-rpath,'$$ORIGIN/..' -pthread $(VARIANT_LDFLAGS)

# ---- fuzzing: the target under clang, and in every build a program that replays files through it ----------

$(REPLAY_PROGS): $(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c $(LIBXMEM_A)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -DXM_FUZZ_REPLAY -MMD -MP -o $@ $< $(LIBXMEM_A) $(ALL_LDFLAGS) $(BASE_LIBS)

ifeq ($(VARIANT),fuzz)
$(FUZZ_PROGS): $(BUILD)/fuzz/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(LIBXMEM_A)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -o $@ $< $(LIBXMEM_A) -fsanitize=fuzzer $(ALL_LDFLAGS) $(BASE_LIBS)

.PHONY: fuzz-programs
fuzz-programs: $(FUZZ_PROGS)
endif

# ---- what runs ------------------------------------------------------------------------------------------

TEST_PROGS := $(UNIT_PROGS) $(STRESS_PROGS) $(REPLAY_PROGS)
ifneq ($(filter release checked,$(VARIANT)),)
TEST_PROGS += $(IT_PROGS) $(BENCH_PROGS) $(if $(filter release,$(VARIANT)),$(BARE_SO))
ifneq ($(CORE_OBJS),)
TEST_PROGS += $(EXAMPLE_PROGS)
endif
endif

# only what is executable and is not a library of another script
IT_SCRIPTS := $(shell find tests/it -maxdepth 1 -type f \( -name '*.sh' -o -name '*.py' \) -perm -u+x \
	! -name 'lib*' ! -name '_*' 2>/dev/null | LC_ALL=C sort)
RUN_TESTS := BUILD=$(BUILD) tools/run-tests
unit_of = $(UNIT_NAMES:%=$(BUILD)/$(1)/tests/unit/%)
stress_of = $(patsubst %,$(BUILD)/$(1)/tests/stress/%,$(call names,tests/stress/*.c))
replay_of = $(FUZZ_NAMES:fuzz_%=$(BUILD)/$(1)/tests/fuzz/replay_%)
# unit tests two at a time: much of their time they wait
AT_A_TIME := -j 2
tsan_of = $(filter-out $(TSAN_SKIP:%=$(BUILD)/tsan/tests/unit/%),$(call unit_of,tsan))

# sub-makes use every processor unless a -j was given
SUBMAKE = +$(Q)$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: tests check check-all check-rdma unit stress fuzz fuzz-run it bench demo

tests: $(PRODUCTS) $(TEST_PROGS)  ## build the test programs too

unit: $(UNIT_PROGS)  ## build and run the unit tests of VARIANT
	@$(RUN_TESTS) -b $(B) $(UNIT_PROGS)

it: $(PRODUCTS) $(IT_PROGS)  ## run the integration scripts (T="tests/it/x.sh ..." for some)
	@$(RUN_TESTS) -b $(B) $(or $(T),$(IT_SCRIPTS))

stress: $(PRODUCTS) $(STRESS_PROGS)  ## run the stress programs of VARIANT
	@$(RUN_TESTS) -t 1800 -b $(B) $(STRESS_PROGS)

check:  ## install what is missing, build, and run the tests (under 20 minutes)
	@tools/setup
	$(SUBMAKE) VARIANT=release tests
	$(SUBMAKE) VARIANT=asan tests
	$(SUBMAKE) VARIANT=tsan tests
	$(SUBMAKE) compile_commands.json
	@XMEM_LEVEL=check $(RUN_TESTS) \
		$(AT_A_TIME) -b $(BUILD)/release tools/lint \
		$(call unit_of,release) $(call replay_of,release) \
		-b $(BUILD)/asan $(call unit_of,asan) $(call replay_of,asan) \
		-t 180 -b $(BUILD)/tsan $(tsan_of) \
		-j 1 -b $(BUILD)/release -t 300 $(call stress_of,release) -t 120 $(IT_SCRIPTS)

check-all:  ## everything: every variant, every combination, long stress, fuzzing, RDMA
	@tools/setup
	@tools/setup rdma
	$(SUBMAKE) VARIANT=release tests
	$(SUBMAKE) VARIANT=checked tests
	$(SUBMAKE) VARIANT=asan tests
	$(SUBMAKE) VARIANT=tsan tests
	$(SUBMAKE) compile_commands.json fuzz
	@XMEM_LEVEL=all $(RUN_TESTS) \
		$(AT_A_TIME) -b $(BUILD)/release tools/lint \
		$(call unit_of,release) $(call replay_of,release) \
		-b $(BUILD)/checked $(call unit_of,checked) \
		-b $(BUILD)/asan $(call unit_of,asan) $(call replay_of,asan) \
		-t 180 -b $(BUILD)/tsan $(tsan_of) \
		-j 1 -t 3600 -b $(BUILD)/release $(call stress_of,release) \
		-b $(BUILD)/checked $(call stress_of,checked) \
		-b $(BUILD)/asan $(call stress_of,asan) -b $(BUILD)/tsan $(call stress_of,tsan) \
		-t 1200 -b $(BUILD)/release $(IT_SCRIPTS) \
		-l check -b $(BUILD)/checked $(IT_SCRIPTS) \
		-l all -t 600 -b $(BUILD)/fuzz $(if $(FUZZ_NAMES),tools/fuzz-for)
	@XMEM_LEVEL=all BUILD=$(BUILD) RDMA_DEV=$(RDMA_DEV) tools/check-rdma

ifneq ($(filter check,$(MAKECMDGOALS)),)
check-rdma: check # one after the other, also with -j
endif

check-rdma:  ## run the tests of RDMA in virtual machines (RDMA_DEV=NAME: here, on that device)
	@tools/setup build rdma
	$(SUBMAKE) VARIANT=release tests
	@BUILD=$(BUILD) RDMA_DEV=$(RDMA_DEV) tools/check-rdma $(T)

fuzz:  ## build the libFuzzer targets with clang
	@if command -v clang >/dev/null; then \
		$(MAKE) --no-print-directory VARIANT=fuzz fuzz-programs; \
	else echo 'fuzz: clang is not installed (tools/setup)'; fi

fuzz-run: fuzz  ## fuzz every target for FUZZ_SECONDS (60)
	@XMEM_BUILD=$(BUILD)/fuzz tools/fuzz-for $(or $(FUZZ_SECONDS),60)

bench:  ## measure; ROW=name for one row; VERBS=verbs:HOST:PORT for a fault over RDMA
	@tools/setup build test
	@tools/setup bench || :
	$(SUBMAKE) VARIANT=release tests
	@XMEM_BUILD=$(BUILD)/release XMEM_BENCH_VERBS='$(VERBS)' XMEM_BENCH_PERFTEST='$(or $(PERFTEST),-R)' \
		tests/bench/run $(ROW)

demo:  ## run a real program with a quarter of the memory it needs
	@tools/setup build demo
	$(SUBMAKE) VARIANT=release all
	@XMEM_BUILD=$(BUILD)/release tools/demo

-include $(shell test -d $(BUILD) && find $(BUILD) -name '*.d' 2>/dev/null)
