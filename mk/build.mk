# SPDX-License-Identifier: Apache-2.0
# Objects, libraries and programs.

existing = $(wildcard $(1))
objs = $(patsubst %.c,$(B)/obj/%.o,$(call existing,$(1)))

COMMON_OBJS := $(call objs,$(COMMON_SRCS))
LINK_OBJS := $(call objs,$(LINK_SRCS))
POLICY_OBJS := $(call objs,$(POLICY_SRCS))
CORE_OBJS := $(call objs,$(RUNTIME_CORE_SRCS))
PRELOAD_OWN_OBJS := $(call objs,$(PRELOAD_SRCS))
RUN_OBJS := $(call objs,$(RUN_SRCS))
TOP_OBJS := $(call objs,$(TOP_SRCS))
APPLIANCE_OBJS := $(call objs,$(APPLIANCE_SRCS))

BASE_OBJS := $(COMMON_OBJS) $(LINK_OBJS)
LIB_OBJS := $(CORE_OBJS) $(POLICY_OBJS) $(BASE_OBJS)
# The preload object reads its settings from the environment: no option tables, no configuration files.
PRELOAD_DROP := $(addprefix $(B)/obj/,$(PRELOAD_DROP_SRCS:.c=.o))
PRELOAD_OBJS := $(filter-out $(PRELOAD_DROP),$(LIB_OBJS)) $(PRELOAD_OWN_OBJS)

BASE_LIBS := -lxxhash -linih

# gcc must not turn the allocator's own loops into calls of the allocator
$(PRELOAD_OWN_OBJS): EXTRA_CFLAGS := -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc \
	-fno-builtin-free

# runs while the program's vector registers are live
$(B)/obj/runtime/preload_trap_done.o: EXTRA_CFLAGS += -mgeneral-regs-only

$(B)/obj/%.o: %.c Makefile mk/flags.mk
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c -o $@ $<

# ---- libxmem --------------------------------------------------------------------------------------------

LIBXMEM_SO := $(B)/libxmem.so.$(VERSION)
LIBXMEM_A := $(B)/libxmem.a

$(LIBXMEM_SO): $(LIB_OBJS) runtime/libxmem.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -o $@ $(LIB_OBJS) -Wl,-soname,libxmem.so.$(SOVERSION) \
		-Wl,--version-script=runtime/libxmem.map -Wl,-z,now -Wl,-Bsymbolic-functions \
		-Wl,--no-undefined $(ALL_LDFLAGS) $(BASE_LIBS)

$(B)/libxmem.so.$(SOVERSION): $(LIBXMEM_SO)
	$(Q)ln -sf $(<F) $@

$(B)/libxmem.so: $(B)/libxmem.so.$(SOVERSION)
	$(Q)ln -sf $(<F) $@

$(LIBXMEM_A): $(LIB_OBJS)
	$(call say,AR,$@)
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(LIB_OBJS)

# ---- libxmem-preload: the runtime, the interposed symbols and a private jemalloc --------------------------

JEMALLOC_PIC ?= $(shell $(PKG_CONFIG) --variable=libdir jemalloc 2>/dev/null)/libjemalloc_pic.a
JEMALLOC_OBJ := $(BUILD)/jemalloc/xm_jemalloc.o
PRELOAD_SO := $(B)/libxmem-preload.so

$(JEMALLOC_OBJ): runtime/jemalloc.syms tools/private-jemalloc $(wildcard $(JEMALLOC_PIC))
	$(call say,JEMALLOC,$@)
	@mkdir -p $(@D)
	$(Q)tools/private-jemalloc $(JEMALLOC_PIC) runtime/jemalloc.syms $@

$(PRELOAD_SO): $(PRELOAD_OBJS) $(JEMALLOC_OBJ) runtime/preload.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -o $@ $(PRELOAD_OBJS) $(JEMALLOC_OBJ) -Wl,-soname,libxmem-preload.so \
		-Wl,--version-script=runtime/preload.map -Wl,-z,now -Wl,-z,nodelete \
		-Wl,-Bsymbolic-functions -Wl,--no-undefined $(PRELOAD_LDFLAGS) $(ALL_LDFLAGS) -lxxhash -ldl -lm

# ---- programs -------------------------------------------------------------------------------------------

link_program = $(Q)$(CC) -o $@ $(1) $(ALL_LDFLAGS) $(2)

$(B)/xmem-run: $(RUN_OBJS) $(LIBXMEM_A)
	$(call say,LD,$@)
	$(call link_program,$(RUN_OBJS) $(LIBXMEM_A),$(BASE_LIBS) $(RUN_LIBS))

$(B)/xmem-top: $(TOP_OBJS) $(LIBXMEM_A)
	$(call say,LD,$@)
	$(call link_program,$(TOP_OBJS) $(LIBXMEM_A),$(BASE_LIBS) $(TOP_LIBS))

$(B)/xmem-appliance: $(APPLIANCE_OBJS) $(BASE_OBJS)
	$(call say,LD,$@)
	$(call link_program,$(APPLIANCE_OBJS) $(BASE_OBJS),$(BASE_LIBS) $(APPLIANCE_LIBS))

# What exists decides what is built. The sanitizers own malloc and parts of the address space, so the
# preload object has no such variant; `checked` is its test build.
PRODUCTS := $(LIBXMEM_A)
ifneq ($(CORE_OBJS),)
PRODUCTS += $(LIBXMEM_SO) $(B)/libxmem.so
endif
ifneq ($(APPLIANCE_OBJS),)
PRODUCTS += $(B)/xmem-appliance
endif
ifneq ($(TOP_OBJS),)
PRODUCTS += $(B)/xmem-top
endif
ifneq ($(RUN_OBJS),)
PRODUCTS += $(B)/xmem-run
endif
ifneq ($(filter release checked,$(VARIANT)),)
ifneq ($(PRELOAD_OWN_OBJS),)
PRODUCTS += $(PRELOAD_SO)
endif
endif

.PHONY: lib preload appliance
lib: $(filter $(B)/libxmem.%,$(PRODUCTS))
preload: $(PRELOAD_SO)
appliance: $(B)/xmem-appliance
