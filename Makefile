# SPDX-License-Identifier: Apache-2.0
#
# One non-recursive build. Each folder's module.mk says what it consists of; the rules are here and in mk/.
# Everything that is made lands under $(BUILD)/$(VARIANT); sources that do not exist are simply not built,
# so that a part of the tree can be worked on without the others.
#
#   make VARIANT=release|checked|asan|tsan   BUILD=build   V=1   WERROR=

VERSION := 0.1.0
SOVERSION := 0

VARIANT ?= release
BUILD ?= build
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
WERROR ?= -Werror
B := $(BUILD)/$(VARIANT)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

include mk/flags.mk

include $(wildcard common/module.mk common/link/module.mk)
include $(wildcard runtime/module.mk runtime/policy/module.mk appliance/module.mk)
include $(wildcard tests/module.mk tools/module.mk man/module.mk)

include mk/build.mk
include mk/tests.mk
include mk/install.mk
include mk/tidy.mk

.PHONY: all help clean

all: $(PRODUCTS)  ## build libraries and programs (default)

help:  ## this list
	@echo 'xmem $(VERSION): make [VARIANT=release|checked|asan|tsan] [BUILD=build] [V=1] TARGET'
	@sed -n 's/^\([a-z][a-z_.-]*\):.*## *\(.*\)/  \1\t\2/p' Makefile mk/*.mk | \
		while IFS='	' read -r t d; do printf '%-24s %s\n' "  $$t" "$$d"; done

clean:  ## remove everything that was built
	rm -rf $(BUILD)
