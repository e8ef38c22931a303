"""A git ref as a folder."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from review.preview import BadInputError


@contextmanager
def checkout(ref: str, repository: Path) -> Iterator[Path]:
    """A folder as it is in a ref, in a temporary work tree that is removed whatever happens.

    Args:
        ref: A branch, tag or commit.
        repository: The folder: a repository's, or one inside it.

    Raises:
        BadInputError: git does not know the ref, or cannot make a work tree.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "base"
        # resolved first: a ref that begins with a dash would be a flag of `worktree add`
        try:
            commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
        except BadInputError as error:
            raise BadInputError(
                f"{ref} is no commit that is here; allowed: a branch, a tag or a commit of "
                f"{repository.resolve().name}; `git fetch` brings others ({error})"
            ) from error
        _git(repository, "worktree", "add", "--detach", "--quiet", str(folder), commit)
        try:
            yield folder / _git(repository, "rev-parse", "--show-prefix")
        finally:
            _git(repository, "worktree", "remove", "--force", str(folder))


def _git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise BadInputError(f"git {words[0]}: {said}")
    return done.stdout.strip()
