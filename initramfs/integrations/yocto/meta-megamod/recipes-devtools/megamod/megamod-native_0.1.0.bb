# megamod for the machine that builds; the loader comes from megamod-loader.
require megamod.inc

inherit native python3native python3-dir

DEPENDS = " \
    python3-native \
    kmod-native \
    libarchive-native \
    python3-click-native \
    python3-cryptography-native \
    python3-libarchive-c-native \
    python3-lz4-native \
    python3-msgspec-native \
    python3-numpy-native \
    python3-pefile-native \
    python3-pyelftools-native \
    python3-pyyaml-native \
    python3-rich-native \
    python3-zstandard-native \
"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

# Pure Python without a compiled part: the package, its data, and the metadata that names its version.
do_install() {
    install -d ${D}${PYTHON_SITEPACKAGES_DIR} ${D}${bindir}
    cp -R --no-preserve=ownership ${S}/initramfs/megamod ${D}${PYTHON_SITEPACKAGES_DIR}/megamod
    cp -R --no-preserve=ownership ${S}/profiles ${D}${PYTHON_SITEPACKAGES_DIR}/megamod/_profiles
    install -d ${D}${PYTHON_SITEPACKAGES_DIR}/megamod/_loader ${D}${PYTHON_SITEPACKAGES_DIR}/megamod-${PV}.dist-info
    cp -R --no-preserve=ownership ${S}/loader/services ${D}${PYTHON_SITEPACKAGES_DIR}/megamod/_loader/
    printf 'Metadata-Version: 2.1\nName: megamod\nVersion: ${PV}\n' \
        >${D}${PYTHON_SITEPACKAGES_DIR}/megamod-${PV}.dist-info/METADATA
    find ${D} -name __pycache__ -prune -exec rm -rf {} +
    cat >${D}${bindir}/megamod <<EOF
#!/usr/bin/env nativepython3
import sys
from megamod.cli.main import main
sys.exit(main())
EOF
    chmod 0755 ${D}${bindir}/megamod
}
