"""`nlakit completion`: completion of verbs and options, for a shell to load."""

from __future__ import annotations

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell; nothing of yours is changed.

    bash: nlakit completion bash > ~/.local/share/bash-completion/completions/nlakit

    zsh: nlakit completion zsh > DIRECTORY/_nlakit, a directory of $fpath

    fish: nlakit completion fish > ~/.config/fish/completions/nlakit.fish

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    # Every verb is imported for its options, so the script is made once and not at each TAB.
    from . import app

    print(app.generate_completion(shell=shell))
