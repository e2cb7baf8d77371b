"""Files: whole or not there, replaced and deleted only if claw made them, verified where they are kept, and their hashes."""

from claw.files.digests import digest, sha256
from claw.files.seals import in_cache, is_as_sealed, made_once, sealed
from claw.files.writing import (
    STAMPS,
    adopt,
    check_own,
    discard,
    discard_empty,
    discard_folder,
    is_own,
    is_untouched,
    manifest,
    own_file,
    refuse_link,
    rename,
    stamped,
    whole,
    whole_and_stamped,
    write_own,
    write_text,
)

__all__ = ["STAMPS", "adopt", "check_own", "digest", "discard", "discard_empty", "discard_folder", "in_cache", "is_as_sealed"]
__all__ += ["is_own", "is_untouched", "made_once", "manifest", "own_file", "refuse_link", "rename", "sealed", "sha256"]
__all__ += ["stamped", "whole", "whole_and_stamped", "write_own", "write_text"]
