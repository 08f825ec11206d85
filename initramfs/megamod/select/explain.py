"""Selection → why a module is in it, step by step up to the selector, or why it is not."""

from __future__ import annotations

from megamod.common.errors import MegamodError
from megamod.common.text import canonical
from megamod.select.match import nearest_modules
from megamod.select.selection import Cause, SelectedModule, Selection


def chain_of(selection: Selection, name: str) -> tuple[str, ...]:
    """The steps from the module *name*, which is selected, to the selector that started it, one line each."""
    lines: list[str] = []
    seen: set[str] = set()
    while (found := selection.find(name)) is not None and name not in seen:
        seen.add(name)
        stage, module = found
        lines.append(f"{name}: {_step(module)}, in stage {stage.name}")
        if module.promoted_from is not None and module.selector is not None:
            asked = f"{module.selector.text} at {module.selector.location}"
            lines.append(f"{name}: promoted from stage {module.promoted_from}, which asks for it by {asked}")
        if module.by is None:
            break
        name = module.by
    return tuple(lines)


def _step(module: SelectedModule) -> str:
    if module.cause is Cause.DEPENDENCY:
        return f"{module.by} needs it"
    if module.cause is Cause.SOFTDEP:
        return f"{module.by} has a softdep on it"
    if module.cause is Cause.REQUEST:
        return f"{module.by} asks for it by name at run time"
    place = f" at {module.selector.location}" if module.selector else ""
    return f"{module.reason}{place}"


def names_of(selection: Selection, text: str) -> tuple[str, ...]:
    """The canonical names that *text*, a module's name or an alias, stands for: of modules, else of what is built in.

    Raises MegamodError with the nearest names where there is nothing of the kind.
    """
    modules, built_in = selection.tree.resolve(text)
    if modules or built_in:
        return modules or built_in
    if any(gone.name == canonical(text) for gone in selection.left_out):
        return (canonical(text),)
    message = f"no module or alias {text} in {selection.tree.release}"
    raise MegamodError(message, hint=nearest_modules(canonical(text), selection.tree))


def why_absent(selection: Selection, name: str) -> str:
    """Why the module *name*, which is not selected, is not."""
    tree = selection.tree
    for gone in selection.left_out:
        if gone.name == name:
            return f"{gone.reason}, at {gone.location}"
    if name not in tree.modules:
        return "built into the kernel"
    weak = [
        module.name
        for stage in selection.stages
        for module in stage.modules
        if name in {found for word in tree.weakdeps.get(module.name, ()) for found in tree.resolve(word)[0]}
    ]
    reason = "no selector asks for it, and no selected module needs it"
    if weak:
        reason += f"; {', '.join(weak)} may ask for it at run time (a weak dependency)"
    return reason


def users_of(selection: Selection, name: str) -> tuple[str, ...]:
    """The selected modules that need *name*, directly or not, sorted."""
    tree = selection.tree
    modules = (module.name for stage in selection.stages for module in stage.modules)
    return tuple(sorted(user for user in modules if name in tree.modules[user].depends))
