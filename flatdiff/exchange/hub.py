"""A folder as a repository of the Hugging Face Hub, or of what $HF_ENDPOINT names.

Who one is says huggingface_hub itself: `hf auth login`, or $HF_TOKEN.
"""

from types import ModuleType


def check(name: str) -> ModuleType:
    """Return huggingface_hub. ValueError where it is not installed, or `name` is none of a
    repository."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise ValueError("--push_to_hub takes: pip install huggingface_hub") from None
    validate_repo_id(name)
    return huggingface_hub


def push(folder: str, name: str) -> str:
    """Make the repository USER/NAME where there is none, put the folder's files into it, and return
    its address. ValueError, in one sentence, for what the hub does not take."""
    hub = check(name)
    try:
        api = hub.HfApi()
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Written by flatdiff")
    except Exception as error:  # of the hub, of HTTP in several libraries, of the network
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{name} was not pushed ({why}); {folder} is whole: push it again by "
            f"hf upload {name} {folder}"
        ) from error
    return str(address)
