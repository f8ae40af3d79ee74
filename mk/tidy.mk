# SPDX-License-Identifier: Apache-2.0
# Linters, formatting, the database for editors, the tarball.

C_FILES := $(wildcard include/*.h common/*.[ch] common/link/*.[ch] runtime/*.[ch] runtime/policy/*.[ch] \
	appliance/*.[ch] mgmt/*.[ch] tests/*/*.[ch] tools/examples/*.[ch])
DB_SRCS := $(filter %.c,$(C_FILES))

.PHONY: lint tidy format format-check compile_commands.json dist

lint: tests  ## sizes, include direction, exported and data-path symbols
	@XMEM_BUILD=$(B) tools/lint

tidy: compile_commands.json  ## clang-tidy over every source (slow)
	clang-tidy -quiet -p $(BUILD) $(DB_SRCS)

format:  ## let clang-format rewrite the sources
	clang-format -i $(C_FILES)

format-check:  ## fail if clang-format would change anything
	clang-format --dry-run -Werror $(C_FILES)

compile_commands.json: export DB_COMMAND = $(CC) $(filter-out -Werror,$(ALL_CFLAGS))
compile_commands.json:  ## write $(BUILD)/compile_commands.json for editors and clang-tidy
	@mkdir -p $(BUILD)
	@python3 -c 'import json, os, sys; json.dump([{"directory": os.getcwd(), "file": f, \
		"command": os.environ["DB_COMMAND"] + " -c " + f} for f in sys.argv[1:]], sys.stdout, indent=1)' \
		$(DB_SRCS) > $(BUILD)/compile_commands.json

dist:  ## a tarball of what is committed
	@mkdir -p $(BUILD)
	git archive --prefix=xmem-$(VERSION)/ -o $(BUILD)/xmem-$(VERSION).tar.gz HEAD
