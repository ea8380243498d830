"""Put a learner's notebooks into the published ones: answers by exercise, own cells after the neighbours they had."""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass, field

import nbformat

from shared.course import Exercise
from shared.notebooks import (
    PUBLISHED_ID,
    assigned,
    commented,
    definitions,
    fits,
    graded,
    id_of,
    marked,
    position,
    published,
    rename,
    split,
)

HEADING = "## Kept from before"
Spot = tuple[str, nbformat.NotebookNode]  # a cell, and the path of the published notebook that it stands in


@dataclass(eq=False)
class Mine:
    """A learner's notebook: the lesson that it belongs to, its cells, and what was published when they began."""

    path: str
    cells: list
    before: list = field(default_factory=list)
    pieces: dict[int, dict[str, str]] = field(default_factory=dict)  # index of a cell -> exercise -> answer in it


@dataclass
class Changes:
    """What a notebook gets: exercises answered, cells kept, conflicts kept beside."""

    answers: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.answers or self.kept or self.conflicts)


class Merger:
    """The published notebooks by path, changed in place by `merge` and `answer`; `changes` says how."""

    def __init__(
        self, pages: dict[str, nbformat.NotebookNode], exercises: dict[str, Exercise], renamed: dict[str, str]
    ):
        self.pages, self.renamed = pages, renamed
        self.changes = {path: Changes() for path in pages}
        self.by_id = {path: {id_of(c): c for c in page.cells if id_of(c)} for path, page in pages.items()}
        self.by_text = {p: {(c.cell_type, c.source): c for c in reversed(page.cells)} for p, page in pages.items()}
        self.winners: dict[str, tuple[Mine, int]] = {}
        self.targets: dict[str, Spot] = {}  # where each exercise is answered
        self.open: set[str] = set()  # exercises whose skeleton stands there
        self.there: dict[str, list] = {}  # the learner's cells that a page holds already
        for path, page in pages.items():
            course = published(page.cells, [])
            self.there[path] = [cell for cell, theirs in zip(page.cells, course, strict=True) if not theirs]
            for cell, theirs in zip(page.cells, course, strict=True):
                for name in definitions(cell.source) if cell.cell_type == "code" and not graded(path) else ():
                    e = exercises.get(name)
                    if not e or not re.fullmatch(rf"{e.week}/\d+_{e.lesson}\.ipynb", path):
                        continue
                    if name not in self.open and (theirs or cell.source == e.skeleton):
                        self.targets[name] = (path, cell)
                        self.open.add(name)
                    self.targets.setdefault(name, (path, cell))

    def merge(self, notebooks: list[Mine]) -> None:
        """Put all that is the learner's in these notebooks into the published ones."""
        own = {mine: self._whose(mine) for mine in notebooks}
        self._choose(own)
        for mine in notebooks:
            home, spots = self._home(mine), []
            for index in range(len(mine.cells)):
                near = next((spot for spot in reversed(spots) if spot), None)
                spots.append(self._place(mine, index, own[mine][index], home, near))

    def answer(self, name: str, source: str) -> None:
        """Put a saved answer in the place of a skeleton; what the learner wrote there themselves stays."""
        if name in self.open:
            self._answer(name, source, True, [])

    def _whose(self, mine: Mine) -> list[bool]:
        """Which cells are the learner's; in these, renamed exercises get their new names."""
        known = [*mine.before, *(self.pages[mine.path].cells if mine.path in self.pages else ())]
        course = published(mine.cells, known)
        skeletons = {cell.source for cell in mine.before if cell.cell_type == "code" and definitions(cell.source)}
        own = [
            bool(cell.source.strip()) and not theirs and cell.source not in skeletons
            for cell, theirs in zip(mine.cells, course, strict=True)
        ]
        for cell in [*mine.before, *(c for c, is_own in zip(mine.cells, own, strict=True) if is_own)]:
            if cell.cell_type == "code" and self.renamed:
                cell.source = rename(cell.source, self.renamed)
        return own

    def _choose(self, own: dict[Mine, list[bool]]) -> None:
        """Decide which cell answers each exercise: the last that defines it, in the notebook with its check."""
        found: dict[str, list[tuple[bool, Mine, int]]] = {}
        checks = {mine: {name for c in mine.cells for name in re.findall(r"^check\((\w+)", c.source)} for mine in own}
        for mine, theirs in own.items():
            for index, cell in enumerate(mine.cells if not graded(mine.path) else ()):
                if theirs[index] and cell.cell_type == "code":
                    defined = definitions(cell.source).keys()
                    for name in (defined | assigned(cell.source)) & self.targets.keys():
                        found.setdefault(name, []).append((name in defined, mine, index))
        for name, every in found.items():
            called = {name, *(old for old, new in self.renamed.items() if new == name)}
            every = [entry for entry in every if entry[0]] or every
            _, chosen, last = ([entry for entry in every if checks[entry[1]] & called] or every)[-1]
            self.winners[name] = chosen, last
            for _, mine, index in every:
                if mine is chosen or mine.path == self.targets[name][0]:
                    mine.pieces.setdefault(index, {})[name] = ""
        for mine in own:
            mine.pieces = {i: split(mine.cells[i].source, list(names)) for i, names in mine.pieces.items()}

    def _home(self, mine: Mine) -> str:
        """The page of this name; where there is none, the one with the most cells of it."""
        if mine.path in self.pages:
            return mine.path
        ids, week = {id_of(cell) for cell in mine.cells}, mine.path.split("/")[0]
        lessons = [path for path in self.pages if not graded(path)]
        return max(lessons, key=lambda path: (len(ids & self.by_id[path].keys()), path.startswith(week)))

    def _place(self, mine: Mine, index: int, own: bool, home: str, near: Spot | None) -> Spot | None:
        """Where a cell of the learner's notebook is now; what is theirs and is not there yet is put there."""
        cell = mine.cells[index]
        if index in mine.pieces:
            for name, piece in mine.pieces[index].items():
                near = self._answer(name, piece, self.winners[name] == (mine, index), mine.before)
            return near
        if not own:
            return self._locate(home, cell)
        if cell.source.startswith(HEADING):
            self._end(home)
            return home, next(c for c in self.pages[home].cells if c.source.startswith(HEADING))
        twin, source = None, cell.source
        if PUBLISHED_ID.fullmatch(id_of(cell)):  # the course's once, and changed
            twin = self.by_id[home].get(id_of(cell))
            if twin is not None and twin.source == source:
                return home, twin
            if twin is None and "exercise" in cell.metadata.get("tags", []) and definitions(source):
                near = None
            else:
                source = marked(cell)
                near = (home, twin) if twin is not None else self._after_the_new(mine, cell, near)
        return self._keep(near or self._end(home), cell, source, self.changes[(near or (home,))[0]].kept)

    def _locate(self, home: str, cell: nbformat.NotebookNode) -> Spot | None:
        """A published cell in the new version: by id, else by text, else by exercise, else in another notebook."""
        found = self.by_id[home].get(id_of(cell)) or self.by_text[home].get((cell.cell_type, cell.source))
        if found is not None:
            return home, found
        for name in definitions(cell.source) if cell.cell_type == "code" else ():
            if self.renamed.get(name, name) in self.targets:
                return self.targets[self.renamed.get(name, name)]
        elsewhere = [(path, cells[id_of(cell)]) for path, cells in self.by_id.items() if id_of(cell) in cells]
        return elsewhere[0] if len(elsewhere) == 1 else None

    def _after_the_new(self, mine: Mine, cell: nbformat.NotebookNode, near: Spot | None) -> Spot | None:
        """Where the course replaced a cell that the learner had changed: behind what it put there."""
        if near is None:
            return None
        path, before = near
        cells = self.pages[path].cells
        after = cells[position(cells, before) + 1 :][:1]
        known = {id_of(other) for other in mine.cells} | {id_of(other) for other in mine.before}
        new = [c for c in after if c.cell_type == cell.cell_type and id_of(c) in self.by_id[path].keys() - known]
        return (path, new[0]) if new and new[0].source not in {other.source for other in mine.cells} else near

    def _answer(self, name: str, source: str, wins: bool, before: list) -> Spot:
        """Put an answer in the place of its exercise, or, where that cannot be, commented below it."""
        path, target = self.targets[name]
        if target.source == source or (not wins and source == self._winning(name)):
            return path, target
        if wins and name in self.open and fits(name, source, target.source, before):
            target.source, target.outputs, target.execution_count = source, [], None
            self.open.discard(name)
            self.changes[path].answers.append(name)
            return path, target
        why = "its signature changed" if name in self.open else "another answer stands above"
        why = why if wins else "you had defined it again further down"
        text = f"# Your answer before the update: {name}. Take over what still holds, then delete this cell.\n"
        text = f"{text}\n{commented(source)}"
        told = self.changes[path].conflicts
        return self._keep((path, target), nbformat.v4.new_code_cell(), text, told, f"{name} ({why})")

    def _winning(self, name: str) -> str | None:
        mine, index = self.winners[name]
        return mine.pieces[index].get(name)

    def _end(self, home: str) -> Spot:
        """The last cell of a page, below the heading for what has no place any more."""
        cells = self.pages[home].cells
        if not any(cell.source.startswith(HEADING) for cell in cells):
            text = f"{HEADING}\n\nThe new version has no place for these cells. They are yours: move or delete them."
            self._keep((home, cells[-1]), nbformat.v4.new_markdown_cell(), text, [])
        return home, cells[-1]

    def _keep(self, near: Spot, cell: nbformat.NotebookNode, source: str, told: list[str], words: str = "") -> Spot:
        """The learner's cell behind another; one that is there already is found, not put there twice."""
        path, before = near
        for index, other in enumerate(self.there[path]):
            if (other.cell_type, other.source) == (cell.cell_type, source):
                return path, self.there[path].pop(index)
        page = self.pages[path]
        new = copy.deepcopy(cell)
        new.source, taken = source, {id_of(other) for other in page.cells}
        if new.cell_type == "code":
            new.outputs, new.execution_count = [], None
            new.metadata.pop("execution", None)
        wanted = f"kept-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        names = [id_of(cell), wanted, *(f"{wanted}-{number}" for number in range(2, len(taken) + 3))]
        new.pop("id", None)
        if page.nbformat_minor >= 5:
            new["id"] = next(n for n in names if n and n not in taken and not PUBLISHED_ID.fullmatch(n))
        page.cells.insert(position(page.cells, before) + 1, new)
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        told.append(words or first.strip()[:60])
        return path, new
