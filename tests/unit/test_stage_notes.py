"""What a build tells of its modules: one line for each fact, however many modules and stages it holds for."""

from __future__ import annotations

from megamod.build.link_stages import BuiltLoad, BuiltStage, stage_notes
from megamod.build.stages import Load
from megamod.select.select import SelectedStage


def stage(name: str, **singles: str) -> BuiltStage:
    loads = tuple(
        BuiltLoad(load=Load(module=module, modules=(), single=why), file="", data=b"", merged=None)
        for module, why in singles.items()
    )
    return BuiltStage(stage=SelectedStage(name=name, trigger=None, modules=()), loads=loads, seconds=0.0)


def test_same_reason_in_several_stages_is_one_line() -> None:
    one = stage("critical", a="is a livepatch", b="is out of tree")
    two = stage("usb", **dict.fromkeys("cdefg", "is a livepatch"))
    assert stage_notes([one, two]) == [
        "6 modules stay on their own (a, c, d, e and 2 more): each is a livepatch",
        "b stays a module of its own: it is out of tree",
    ]
