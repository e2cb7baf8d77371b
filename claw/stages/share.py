"""A checkpoint to the Hugging Face hub: its files as they are on disk, with the model card and the licence of the original.

Nothing is sent unless a user names a repository, and a repository is private unless the user says otherwise. A file is never
taken away from the hub; one of the same name gets a new version there.
"""

from pathlib import Path

from claw.errors import InputError, without_credentials
from claw.stages.model_card import HUB_ID


def check_push(name: str) -> None:
    """InputError unless `name` can be a repository and there is a token to write to it with. Nothing is sent."""
    from huggingface_hub import get_token

    if not isinstance(name, str) or not HUB_ID.fullmatch(name):
        raise InputError(f"{name!r} is no name of a repository on the hub. Write OWNER/NAME, such as anna/smollm2-95m.")
    if not get_token():
        raise InputError(
            f"There is no token to push to {name} with. Run `hf auth login` with a token that may write, or set HF_TOKEN; the "
            "checkpoint can be pushed later with `hf upload`."
        )


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a checkpoint to the repository `name`, made if it is not there; its address. InputError where the hub refuses."""
    from huggingface_hub import HfApi

    check_push(name)
    api = HfApi()
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=name, commit_message="Compressed with claw")
    except Exception as error:  # the hub's client and its transport each raise their own kinds
        told = without_credentials(str(error) or repr(error))
        raise InputError(
            f"{folder} is saved, but the hub did not take it: {told.splitlines()[0]}. Check the name, the network and "
            f"whether the token may write, and push it again: `hf upload {name} {folder}`."
        ) from error
    return str(url)
