################################################################################
#
# megamod
#
################################################################################

MEGAMOD_VERSION = 0.1.0
# The checkout that this tree is a part of.
MEGAMOD_SITE = $(realpath $(BR2_EXTERNAL_MEGAMOD_PATH)/../../..)
MEGAMOD_SITE_METHOD = local
MEGAMOD_LICENSE = MIT
MEGAMOD_LICENSE_FILES = LICENSE
HOST_MEGAMOD_DEPENDENCIES = host-kmod host-libarchive toolchain

# What the wheel needs comes from a folder of wheels where there is no network.
HOST_MEGAMOD_PIP = $(HOST_DIR)/megamod/bin/pip install --quiet \
	$(if $(MEGAMOD_WHEELS),--no-index --find-links $(MEGAMOD_WHEELS))

# The loader is compiled by the target's compiler, so no zig is needed.
define HOST_MEGAMOD_BUILD_CMDS
	python3 -m venv $(HOST_DIR)/megamod
	MEGAMOD_CC="$(TARGET_CC)" $(HOST_MEGAMOD_PIP) setuptools
	MEGAMOD_CC="$(TARGET_CC)" $(HOST_MEGAMOD_PIP) --no-build-isolation $(@D)
endef

define HOST_MEGAMOD_INSTALL_CMDS
	mkdir -p $(HOST_DIR)/bin
	printf '#!/bin/sh\nLIBARCHIVE=%s exec %s "$$@"\n' \
		$(HOST_DIR)/lib/libarchive.so $(HOST_DIR)/megamod/bin/megamod \
		>$(HOST_DIR)/bin/megamod
	chmod 0755 $(HOST_DIR)/bin/megamod
endef

$(eval $(host-generic-package))

################################################################################
#
# the image: after the target's file system is whole
#
################################################################################

ifeq ($(BR2_MEGAMOD_IMAGE),y)

MEGAMOD_OUT = $(BINARIES_DIR)/megamod
MEGAMOD_FILES = --vmlinuz $(LINUX_IMAGE_PATH)

ifeq ($(BR2_MEGAMOD_FIT),y)
define MEGAMOD_MAKE_FIT
	$(HOST_DIR)/bin/megamod fit $(MEGAMOD_OUT).img $(MEGAMOD_FILES) \
		$(addprefix --dtb ,$(wildcard $(BINARIES_DIR)/*.dtb)) \
		$(addprefix --load ,$(call qstrip,$(BR2_MEGAMOD_FIT_LOAD))) -o $(MEGAMOD_OUT).itb
endef
endif

ifeq ($(BR2_MEGAMOD_UKI),y)
define MEGAMOD_MAKE_UKI
	$(HOST_DIR)/bin/megamod uki $(MEGAMOD_OUT).img $(MEGAMOD_FILES) \
		$(addprefix --stub ,$(call qstrip,$(BR2_MEGAMOD_UKI_STUB))) \
		--cmdline "$(call qstrip,$(BR2_MEGAMOD_UKI_CMDLINE))" -o $(MEGAMOD_OUT).efi
endef
endif

# Next to its modules the kernel is found: exports and configuration are read from it.
define MEGAMOD_MAKE_IMAGE
	@$(call MESSAGE,"Making the initramfs image by megamod")
	rm -rf $(BUILD_DIR)/megamod-tree
	mkdir -p $(BUILD_DIR)/megamod-tree/lib $(BINARIES_DIR)
	cp -a $(TARGET_DIR)/lib/modules $(BUILD_DIR)/megamod-tree/lib/
	cp $(LINUX_IMAGE_PATH) $(BUILD_DIR)/megamod-tree/lib/modules/$(LINUX_VERSION_PROBED)/vmlinuz
	cp $(LINUX_DIR)/.config $(BUILD_DIR)/megamod-tree/lib/modules/$(LINUX_VERSION_PROBED)/config
	XDG_CACHE_HOME=$(BUILD_DIR)/megamod-cache $(HOST_DIR)/bin/megamod build \
		$(call qstrip,$(BR2_MEGAMOD_PROFILE)) -k $(BUILD_DIR)/megamod-tree \
		$(if $(wildcard $(TARGET_DIR)/lib/firmware),--firmware-dir $(TARGET_DIR)/lib/firmware) \
		-o $(MEGAMOD_OUT).img
	$(MEGAMOD_MAKE_FIT)
	$(MEGAMOD_MAKE_UKI)
endef
TARGET_FINALIZE_HOOKS += MEGAMOD_MAKE_IMAGE
target-finalize: host-megamod

endif
