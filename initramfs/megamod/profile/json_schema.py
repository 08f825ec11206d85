"""The form of a profile as a JSON Schema, made from the table of keys, for editors.

Editors check and complete with it; what it cannot say (a trigger that does not fit the root, a module that a kernel
does not have) `megamod profile check` says. The YAML is taken as YAML 1.2 has it, where `off` and `no` are texts.
"""

from __future__ import annotations

from megamod.profile.keys import Json, mapping_schema
from megamod.profile.model import CRITICAL, Profile, profile_keys

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def profile_schema(form: type[Profile] = Profile) -> Json:
    """The JSON Schema (draft 2020-12) of a profile, as a value for `json.dumps`."""
    return {
        "$schema": DRAFT,
        "title": "megamod profile",
        "description": "Which kernel modules are loaded before user space, and which later.",
        **mapping_schema(profile_keys(form)),
        "anyOf": [{"required": [CRITICAL]}, {"required": ["extends"]}],
    }
