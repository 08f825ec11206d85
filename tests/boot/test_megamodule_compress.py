"""Images packed by each method boot on kernels that can unpack it."""

from __future__ import annotations

import pytest

from megamod.common.compression import METHODS
from megamod.common.files import read_file
from megamod.image.archive import segments
from tests.boot.image_fixtures import END, make_image, make_root, manifest_of, run

PROFILE = """
name: packed
critical: {{modules: ["?virtio_pci", virtio_blk, ext4]}}
compress: {method}
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suite", ["bookworm", "bookworm-backports"])
def test_an_image_packed_by_any_method_boots(suite, method, kernels, made_once):
    kernel = kernels(suite)
    image = make_image(made_once, kernel, PROFILE.format(method=method))
    assert [segment.method for segment in segments(read_file(image), source="image")] == [method]
    assert manifest_of(image).options["compress"] == method
    # Without -cpu the CRC drivers that come along find no instructions of theirs.
    disks = [make_root(made_once, f"say user space\n{END}")]
    guest = run(made_once, kernel, image, disks=disks, extra=["-cpu", "max"])
    assert "init: user space" in guest.log()
    assert guest.failures() == []
