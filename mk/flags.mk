# SPDX-License-Identifier: Apache-2.0
# Compiler, flags of each variant, and the quiet way of printing commands.

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter \
	-Wpointer-arith -Wvla $(WERROR)

CPPFLAGS_XM := -D_GNU_SOURCE -DXM_VERSION='"$(VERSION)"' -Iinclude -Icommon -I.
# Initial-exec: a thread-local variable must never make libc allocate behind the runtime's back.
CODEGEN := -std=gnu11 -fPIC -fvisibility=hidden -ftls-model=initial-exec -fno-strict-aliasing \
	-fno-omit-frame-pointer -pthread

ifeq ($(VARIANT),release)
VARIANT_FLAGS := -O2 -g
else ifeq ($(VARIANT),checked)
VARIANT_FLAGS := -O1 -g -DXM_CHECKED
else ifeq ($(VARIANT),asan)
VARIANT_FLAGS := -O1 -g -DXM_CHECKED -fsanitize=address,undefined -fno-sanitize-recover=undefined
VARIANT_LDFLAGS := -fsanitize=address,undefined
else ifeq ($(VARIANT),tsan)
# gcc warns of fences, which tsan does not model; the code uses none for correctness that tsan must see.
VARIANT_FLAGS := -O1 -g -fsanitize=thread -Wno-tsan
VARIANT_LDFLAGS := -fsanitize=thread
else ifeq ($(VARIANT),fuzz)
CC := clang
VARIANT_FLAGS := -O1 -g -DXM_CHECKED -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
VARIANT_LDFLAGS := -fsanitize=address,undefined
else
$(error VARIANT=$(VARIANT): release, checked, asan or tsan)
endif

CFLAGS ?=
LDFLAGS ?=
ALL_CFLAGS = $(CODEGEN) $(VARIANT_FLAGS) $(WARN) $(CPPFLAGS_XM) $(CFLAGS)
ALL_LDFLAGS = -pthread -Wl,-z,relro -Wl,--as-needed $(VARIANT_LDFLAGS) $(LDFLAGS)

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-8s %s\n' $(1) '$(2)'
endif
