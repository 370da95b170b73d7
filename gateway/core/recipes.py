"""The catalogue: the shipped recipes and the site's, which override them by name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.core.recipe_file import RecipeFile, read
from gateway.data import folder
from gateway.errors import RecipeInvalid, RecipeNotFound
from gateway.model.recipe import Recipe, version_key
from gateway.model.text import nearest

_Stamp = tuple[int, int, int]
_Files = list[RecipeFile]


def open_catalogue(site: Sequence[Path] = ()) -> "Catalogue":
    """The shipped recipes with the site's folders over them."""
    return Catalogue([folder("recipes"), *site])


class Catalogue:
    """Recipes from folders of YAML files (`*.yaml`, `*.yml`); a later folder overrides an earlier one by name.

    Changed files are read again at the next call. A broken file is a problem, not a failure: the other recipes stay.
    What it means to define stays hidden, also where an earlier folder has a recipe of that name: a site's restricted
    version must not give way to the shipped one because of a typing error.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[Path, tuple[_Stamp, RecipeFile]] = {}

    @property
    def folders(self) -> tuple[Path, ...]:
        return self._folders

    @property
    def problems(self) -> Sequence[RecipeInvalid]:
        """What is wrong, file by file, with line, column and field in `details`."""
        levels = self._levels()
        broken = [problem for level in levels for file in level for problem in file.problems]
        return [*broken, *self._missing_folders(), *_doubles(levels)]

    def list(self) -> Sequence[Recipe]:
        """The newest version of every recipe, by name; deprecated ones too, mere redirects not."""
        newest = (
            max(versions, key=lambda file: version_key(_recipe(file).version)) for versions in self._good().values()
        )
        return sorted(
            (_recipe(file) for file in newest if _recipe(file).redirect is None), key=lambda recipe: recipe.name
        )

    def versions(self, name: str) -> Sequence[str]:
        """The versions of a recipe, newest first; none if there is no such recipe."""
        found = (_recipe(file).version for file in self._good().get(name, ()))
        return sorted(found, key=version_key, reverse=True)

    def get(self, name: str, version: str | None = None) -> Recipe:
        """The recipe, in its newest version unless one is asked for; redirects are followed.

        RecipeNotFound: the hint names the nearest one. RecipeInvalid: there is one, but its file is broken.
        """
        return _recipe(self._file(name, version))

    def path(self, name: str, version: str | None = None) -> Path:
        """The file of the recipe that `get` gives."""
        return self._file(name, version).path

    def _file(self, name: str, version: str | None, followed: frozenset[str] = frozenset()) -> RecipeFile:
        good = self._good()
        if name not in good:
            for level in self._levels():
                for file in level:
                    if file.name == name and file.problems:
                        raise file.problems[0]
            near = nearest(name, good)
            raise RecipeNotFound(
                f"there is no recipe {name!r}",
                hint=f"Did you mean {near!r}?" if near else f"Known: {', '.join(sorted(good)) or 'none'}.",
            )
        files = {_recipe(file).version: file for file in good[name]}
        if version is not None and version not in files:
            known = ", ".join(self.versions(name))
            raise RecipeNotFound(f"there is no version {version!r} of recipe {name!r}", hint=f"Known: {known}.")
        file = files[version or max(files, key=version_key)]
        target = _recipe(file).redirect
        if target is None:
            return file
        if target in followed:
            raise RecipeInvalid(f"{file.path}: the redirects of {name!r} go in a circle", file=str(file.path))
        return self._file(target, None, followed | {name})

    def _good(self) -> dict[str, _Files]:
        """The files in force by name: those of the last folder that has the name, unless one of them is broken."""
        found: dict[str, _Files] = {}
        for level in self._levels():
            names: dict[str, _Files] = {}
            for file in level:
                names.setdefault(file.name, []).append(file)
            found |= names
        return {name: files for name, files in found.items() if not any(file.problems for file in files)}

    def _levels(self) -> Sequence[_Files]:
        seen: dict[Path, tuple[_Stamp, RecipeFile]] = {}
        levels = []
        for place in self._folders:
            level = []
            for path in sorted(_files(place)):
                try:
                    status = path.stat()
                except OSError:
                    continue  # gone since the folder was listed
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                known = self._read.get(path)
                seen[path] = known if known is not None and known[0] == stamp else (stamp, read(path))
                level.append(seen[path][1])
            levels.append(level)
        self._read = seen
        return levels

    def _missing_folders(self) -> Iterator[RecipeInvalid]:
        for place in self._folders:
            if not place.is_dir():
                yield RecipeInvalid(
                    f"{place}: there is no such folder", hint="See recipes.folders in sluice.toml.", file=str(place)
                )


def _files(place: Path) -> Sequence[Path]:
    try:
        found = list(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # no folder, or no more; one that cannot be read is a fault
        return []
    return [path for path in found if path.suffix in {".yaml", ".yml"} and not path.name.startswith(".")]


def _recipe(file: RecipeFile) -> Recipe:
    if file.recipe is None:
        raise file.problems[0]
    return file.recipe


def _doubles(levels: Sequence[Sequence[RecipeFile]]) -> Iterator[RecipeInvalid]:
    """The same version of the same recipe twice in one folder: which one is in force would be chance."""
    for level in levels:
        first: dict[tuple[str, str], Path] = {}
        for file in level:
            if file.recipe is None:
                continue
            key = (file.name, file.recipe.version)
            if key in first:
                yield RecipeInvalid(
                    f"{file.path}: {first[key].name} has recipe {key[0]!r} in version {key[1]} already",
                    hint="Give one of them another version.",
                    file=str(file.path),
                )
            first.setdefault(key, file.path)
