"""What commands take where nothing is named: the running kernel, a name for the image, the image's own kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from megamod.build.link_map import read_map
from megamod.build.manifest import MANIFEST_PATH
from megamod.cli import main as cli
from megamod.cli.defaults import chosen_tree, kernel_image
from megamod.common.errors import MegamodError
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import open_tree
from tests.unit.module_trees import RELEASE
from tests.unit.test_cli_build import GOOD, module_tree

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `megamod` in a folder on a machine that runs RELEASE, with its modules."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("loader_binary", "ctl_binary"):
        monkeypatch.setattr(f"megamod.build.recipe.{name}", lambda arch: b"a program")
    tree = module_tree(tmp_path / "machine")
    monkeypatch.setitem(open_tree.__kwdefaults__, "release_folders", (tree.parent,))
    monkeypatch.setattr("megamod.cli.defaults.os.uname", lambda: SimpleNamespace(release=RELEASE))
    (work / "p.yaml").write_text(f"name: cam\n{GOOD}")

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["megamod", *map(str, words)])
        try:
            status = cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_build_takes_the_running_kernel_and_names_the_image(run: Run) -> None:
    assert run("build", "p.yaml", "-q") == (0, "", "")
    image = Path(f"cam-{RELEASE}.img")
    assert sorted(path.name for path in Path().iterdir()) == [image.name, f"{image.name}.map", "p.yaml"]
    assert {"init", MANIFEST_PATH, "megamod/megamod_critical.ko"} <= {entry.path for entry in read_image(image)}
    assert read_map(Path(f"{image}.map")).kernel == RELEASE


def test_a_build_that_names_everything_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    run("build", "p.yaml", "-q")
    tree = tmp_path / "machine/lib/modules" / RELEASE
    assert run("build", "p.yaml", "-q", "--no-cache", "-k", tree, "-o", "other.img")[0] == 0
    assert Path("other.img").read_bytes() == Path(f"cam-{RELEASE}.img").read_bytes()


def test_the_default_output_of_a_profile_with_a_uki_is_an_efi_program(run: Run) -> None:
    Path("p.yaml").write_text(f"name: cam\n{GOOD}output: {{uki: {{vmlinuz: junk}}}}\n")
    Path("junk").write_bytes(b"x")
    status, _out, err = run("build", "p.yaml", "-v")
    assert status == 1
    assert f"output cam-{RELEASE}.efi, map cam-{RELEASE}.efi.map\n" in err


def test_the_profile_is_not_written_over_by_a_default_or_named_output(run: Run) -> None:
    name = f"cam-{RELEASE}.img"
    Path(name).write_text(f"name: cam\n{GOOD}")
    before = Path(name).read_bytes()
    expected = (1, "", f"megamod: {name}: cannot be written: is read, too (hint: choose another name)\n")
    assert run("build", f"./{name}", "-q") == expected
    assert run("build", f"./{name}", "-q", "-o", name) == expected
    assert Path(name).read_bytes() == before


def test_a_running_kernel_without_modules_is_an_error_naming_the_option(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megamod.cli.defaults.os.uname", lambda: SimpleNamespace(release="5.0.0-gone"))
    for words in (["build", "p.yaml"], ["explain", "p.yaml"], ["tune", "p.yaml"]):
        message = "the running kernel: 5.0.0-gone: no such folder, and no kernel of that release"
        status, out, err = run(*words)
        assert (status, out) == (1, "")
        # Those that are there are named.
        assert err.startswith(f"megamod: {message} (hint: name another one with -k; here are: ")


def test_explain_takes_the_running_kernel(run: Run) -> None:
    status, out, err = run("explain", "p.yaml", "disk")
    assert (status, err) == (0, "")
    assert "disk" in out


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ([], ["prelink", "stage"], ["profile cam"]),
        (["-v"], ["prelink", "stage", "profile cam: p.yaml\n", f"kernel {RELEASE}: ", "3 modules\n"], []),
        (["-q"], [], ["prelink", "stage", "profile cam"]),
        (["-q", "-v"], [], ["prelink", "stage", "profile cam"]),
    ],
    ids=str,
)
def test_verbose_says_what_was_chosen_and_quiet_says_nothing(
    run: Run, words: list[str], shown: list[str], hidden: list[str]
) -> None:
    status, out, err = run("build", "p.yaml", *words)
    assert (status, out) == (0, "")
    assert [text for text in shown if text not in err] == []
    assert [text for text in hidden if text in err] == []


def image_of(path: Path, run: Run) -> Path:
    run("build", "p.yaml", "-q", "-o", path)
    return path


def test_an_image_boots_with_the_kernel_that_it_was_built_for(run: Run, tmp_path: Path) -> None:
    image = image_of(Path("a.img"), run)
    folder = tmp_path / "machine/lib/modules" / RELEASE
    with pytest.raises(MegamodError, match=r"no kernel image near it .hint: --vmlinuz FILE"):
        kernel_image(image, kernel=None, vmlinuz=None)
    (tmp_path / "machine/boot").mkdir()
    (tmp_path / f"machine/boot/vmlinuz-{RELEASE}").write_bytes(b"kernel")
    assert kernel_image(image, kernel=None, vmlinuz=None).samefile(tmp_path / f"machine/boot/vmlinuz-{RELEASE}")
    (folder / "vmlinuz").write_bytes(b"kernel")
    assert kernel_image(image, kernel=None, vmlinuz=None) == folder / "vmlinuz"
    assert kernel_image(Path("absent"), kernel=str(folder), vmlinuz=None) == folder / "vmlinuz"
    assert kernel_image(Path("absent"), kernel="absent", vmlinuz=Path("named")) == Path("named")


@pytest.mark.parametrize("words", [["boot"], ["chart", "--boot"]], ids=" ".join)
def test_an_image_whose_kernel_is_not_found_is_one_line(
    run: Run, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = image_of(Path("a.img"), run)
    write_image(Path("other.img"), [Entry(path="init", mode=0o100755, data=b"x")], method="none")
    assert run(*words, "other.img") == (
        1, "", "megamod: other.img: does not say which kernel it is for (hint: --vmlinuz FILE)\n",
    )  # fmt: skip
    (tmp_path / "machine/lib/modules" / RELEASE).rename(tmp_path / "machine/lib/modules/5.9.1")
    status, out, err = run(*words, image)
    assert (status, out) == (1, "")
    assert err == (
        f"megamod: a.img: no kernel to boot it with: {RELEASE}: no such folder, and no kernel of that release "
        "(hint: --vmlinuz FILE)\n"
    )


def test_a_kernel_of_debian_is_fetched_for_its_suite_and_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(suite: str, *, architecture: str | None, **_rest: object) -> SimpleNamespace:
        asked.append((suite, architecture))
        return SimpleNamespace(modules=tmp_path / "absent")

    monkeypatch.setattr("megamod.boot.debian.fetch_kernel", fetch)
    for word in ("debian:sid", "debian:bookworm:arm64"):
        with pytest.raises(MegamodError, match="absent"):
            chosen_tree(word)
    assert asked == [("sid", None), ("bookworm", "arm64")]
