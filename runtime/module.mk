# SPDX-License-Identifier: Apache-2.0
# libxmem, libxmem-preload, xmem-run, xmem-top. runtime/policy/module.mk has the policies.

PRELOAD_SRCS := $(sort $(wildcard runtime/preload*.c))
RUN_SRCS := $(sort $(wildcard runtime/xmem-run*.c runtime/keeper*.c))
TOP_SRCS := $(sort $(wildcard runtime/xmem-top*.c))
RUNTIME_CORE_SRCS := $(filter-out $(PRELOAD_SRCS) $(RUN_SRCS) $(TOP_SRCS),$(sort $(wildcard runtime/*.c)))

# of common/ and runtime/, not in the preload object
PRELOAD_DROP_SRCS := $(wildcard common/opt*.c)
PRELOAD_LDFLAGS :=
RUN_LIBS :=
TOP_LIBS := -lncursesw -ltinfo
