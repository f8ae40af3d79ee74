# SPDX-License-Identifier: Apache-2.0
# install and uninstall; DESTDIR and PREFIX as usual.

BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib
INCDIR := $(PREFIX)/include
MANDIR := $(PREFIX)/share/man
UNITDIR := $(PREFIX)/lib/systemd/system
D := $(DESTDIR)

RUN_BINS := $(filter $(B)/xmem-run $(B)/xmem-top $(B)/xmem-appliance,$(PRODUCTS))
MAN_PAGES := $(wildcard $(MAN_SRCS))
UNIT_FILES := $(wildcard appliance/*.service)
CONF_FILES := $(wildcard appliance/*.conf)
man_path = $(MANDIR)/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))

INSTALLED = $(patsubst $(B)/%,$(BINDIR)/%,$(RUN_BINS)) $(LIBDIR)/libxmem.a $(LIBDIR)/libxmem.so \
	$(LIBDIR)/libxmem.so.$(SOVERSION) $(LIBDIR)/libxmem.so.$(VERSION) \
	$(LIBDIR)/xmem/libxmem-preload.so $(LIBDIR)/pkgconfig/xmem.pc $(INCDIR)/xmem.h \
	$(foreach m,$(MAN_PAGES),$(call man_path,$(m))) $(patsubst appliance/%,$(UNITDIR)/%,$(UNIT_FILES))

.PHONY: install uninstall

install: all  ## install below $(DESTDIR)$(PREFIX)
	install -d $(D)$(BINDIR) $(D)$(LIBDIR)/xmem $(D)$(LIBDIR)/pkgconfig $(D)$(INCDIR)
	$(if $(RUN_BINS),install -m 755 $(RUN_BINS) $(D)$(BINDIR)/)
	install -m 644 $(LIBXMEM_A) $(D)$(LIBDIR)/
	install -m 755 $(LIBXMEM_SO) $(D)$(LIBDIR)/
	ln -sf libxmem.so.$(VERSION) $(D)$(LIBDIR)/libxmem.so.$(SOVERSION)
	ln -sf libxmem.so.$(SOVERSION) $(D)$(LIBDIR)/libxmem.so
	$(if $(filter $(PRELOAD_SO),$(PRODUCTS)),install -m 755 $(PRELOAD_SO) $(D)$(LIBDIR)/xmem/)
	install -m 644 include/xmem.h $(D)$(INCDIR)/
	sed -e 's,@PREFIX@,$(PREFIX),g' -e 's,@VERSION@,$(VERSION),g' runtime/xmem.pc.in \
		> $(D)$(LIBDIR)/pkgconfig/xmem.pc
	set -e; $(foreach m,$(MAN_PAGES),install -D -m 644 $(m) $(D)$(call man_path,$(m));)
	set -e; $(foreach u,$(UNIT_FILES),install -d $(D)$(UNITDIR); sed -e 's,@BINDIR@,$(BINDIR),g' \
		-e 's,@SYSCONFDIR@,$(SYSCONFDIR),g' $(u) > $(D)$(UNITDIR)/$(notdir $(u));)
	set -e; $(foreach c,$(CONF_FILES),install -d $(D)$(SYSCONFDIR)/xmem; \
		test -e $(D)$(SYSCONFDIR)/xmem/$(notdir $(c)) || \
		install -m 644 $(c) $(D)$(SYSCONFDIR)/xmem/$(notdir $(c));)
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

uninstall:  ## remove what install put there (configuration files stay)
	rm -f $(addprefix $(D),$(INSTALLED))
	-rmdir $(D)$(LIBDIR)/xmem 2>/dev/null
