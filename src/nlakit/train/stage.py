"""The stages of a recipe: named steps that talk through files, each made once, in order.

A stage reads what the stages among its `inputs` left on disk, so a killed run goes on where it
stopped, and what a later process reads is what an earlier one read. Whether a stage is done is its
own to say: it is run again by every start, returns at once where nothing is left to do, and refuses
what was made with other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from nlakit.console import notices
from nlakit.data.locks import locked
from nlakit.errors import ConfigError

from . import distributed


@dataclass(frozen=True)
class Workspace:
    """Where the stages of one run keep their files.

    Attributes:
        directories: of each stage, below `root`.
    """

    root: Path
    directories: Mapping[str, str]

    def stage(self, name: str) -> Path:
        """The directory of a stage."""
        return self.root / self.directories[name]


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Attributes:
        name: as `--only` takes it.
        inputs: the stages whose results it reads.
        outputs: what it leaves: paths that are all there once it is done.
        run: does what is left of it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[Path, ...]
    run: Callable[[], None]

    @property
    def is_done(self) -> bool:
        """Whether all of its outputs are there, whatever they were made with."""
        return all(path.exists() for path in self.outputs)


def needed_for(stages: Sequence[Stage], last: str) -> list[Stage]:
    """The stage `last` with all that it reads, directly or not, in the order of `stages`."""
    by_name = {stage.name: stage for stage in stages}
    wanted, waiting = set[str](), [last]
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [each for each in by_name[name].inputs if each not in wanted]
    return [stage for stage in stages if stage.name in wanted]


def run_stages(title: str, root: Path, stages: Sequence[Stage], only: str | None = None) -> None:
    """Run the last stage, or the stage `only`, after every stage that it needs.

    Args:
        root: the run's directory. Another process may run other stages there meanwhile.

    Raises:
        ConfigError: there is no such stage.
        ResumeError: another process is running one of them in `root`.
        UserError: whatever a stage raises.
    """
    names = [stage.name for stage in stages]
    if only is not None and only not in names:
        raise ConfigError(f"There is no stage {only!r}. The stages are {', '.join(names)}.")
    wanted = needed_for(stages, only or names[-1])
    console = notices(shown=distributed.is_first())
    done = [stage.name for stage in wanted if stage.is_done]
    distributed.wait()
    if done:
        said = f"Resuming; done before: {', '.join(done)}."
        console.print(said, markup=False, highlight=False)
    for stage in wanted:
        console.rule(f"{title}: {stage.name}")
        # A stage that is done writes nothing: others may read it meanwhile.
        is_ours = distributed.is_first() and stage.name not in done
        with locked(root, f".{stage.name}.lock") if is_ours else nullcontext():
            stage.run()
        distributed.wait()
        assert stage.is_done, f"{stage.name} left none of {stage.outputs}"
