"""The registry: what may be promoted, by whom it was, and that a folder still is what was registered."""

import getpass
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arislab.errors import RegistryError
from arislab.models import events
from arislab.models.events import CHAMPION
from arislab.system import files

MANIFEST = "manifest.json"
_NEXT = "Look at `arislab models history`, then run it again."


class Table(Protocol):
    """What the registry asks of a table of the lake."""

    def read(self) -> pl.DataFrame:
        """All rows."""

    def extend(self, choose: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
        """Add what is chosen by the rows that stand there when it is added."""


class Lake(Protocol):
    """What the registry asks of a lake."""

    @property
    def run_id(self) -> str:
        """Run in whose name rows are written."""

    @property
    def models(self) -> Path:
        """Folder of the versions."""

    def __getitem__(self, name: str) -> Any:
        """A table."""


class Registry:
    """Versions of a lake, and the events that say what became of them.

    Args:
        lake: Its tables ``model_events``, and ``models`` of earlier versions; its folder of versions.
        actor: Who acts; default the user of this process.
    """

    def __init__(self, lake: Lake, *, actor: str | None = None) -> None:
        self._table: Table = lake["model_events"]
        self._older: Table = lake["models"]
        self._run_id, self.folder, self._actor = lake.run_id, lake.models, actor or _user()

    def events(self) -> pl.DataFrame:
        """Return all events, in their order (columns of ``model_events``)."""
        return self._all(self._table.read()).sort("seq", maintain_order=True)

    def states(self) -> pl.DataFrame:
        """Return what each version is now, as ``states`` does."""
        return events.states(self.events())

    def named(self, name: str, alias: str = CHAMPION) -> str | None:
        """Return the version that an alias names; null: none."""
        return events.named(self.events(), name, alias)

    def before(self, name: str, alias: str = CHAMPION) -> str | None:
        """Return the version to which a rollback goes; null: none."""
        return events.before(self.events(), name, alias)

    def register(self, trained: pl.DataFrame) -> pl.DataFrame:
        """Add adapters that were trained; one that is known stays as it is.

        Args:
            trained: Rows of ``finetuning_runs``: id, name, arm, base_model, adapter_sha256, model_path (the folder's
                name), data_version.

        Returns:
            The events that were added.

        Raises:
            RegistryError: A folder is not what was trained.
        """
        facts = [self._facts(row) for row in trained.iter_rows(named=True)]

        def choose(known: pl.DataFrame) -> pl.DataFrame:
            here = set(self._all(known).filter(event="register")["version"])
            return self._made(known, *[fact for fact in facts if fact["version"] not in here])

        return self._table.extend(choose)

    def judge(self, version: str, gate: dict[str, Any], *, evaluation: str) -> pl.DataFrame:
        """Add what a gate said of the weights that a version holds.

        Args:
            version: Name of the version.
            gate: From ``gate``.
            evaluation: evaluation_id of the answers that were compared.

        Returns:
            The event.

        Raises:
            RegistryError: There is no such version, or its folder is here and another one now.
        """
        row = events.registered(self.events(), version)
        if (self.folder / version).is_dir():  # else only the server has it; to be promoted it must be here
            self.check(version)
        judged = {"event": "gate", "verdict": gate["verdict"], "reason": gate["reason"]}
        return self._add(row, **judged, detail=gate | {"evaluation_id": evaluation})

    def follow_gate(self, version: str, gate: dict[str, Any], *, evaluation: str, expected: str | None) -> str:
        """Add what a gate said, and make the version champion if it passed; returns what became of it, in words.

        A version that somebody left by a rollback is not promoted again by a gate: a person must say why.

        Args:
            version: Name of the version.
            gate: As in ``judge``.
            evaluation: As in ``judge``.
            expected: The champion when the evaluation began; null: none.

        Raises:
            RegistryError: As in ``promote``: also if somebody promoted another one since.
        """
        if not self.events().filter(event="register", version=version).height:
            return f"{version} is not promoted: it is not registered; `arislab run finetune` trains one that is"
        row = self.judge(version, gate, evaluation=evaluation).row(0, named=True)
        if gate["verdict"] != "promote":
            return f"{version} is not promoted: {gate['verdict']}"
        if (rollback := events.left(self.events(), version)) is not None:
            return (
                f"{version} passes, and is not promoted: {rollback['actor'] or 'somebody'} went back from it "
                f"({rollback['reason'] or 'no reason given'}). `arislab promote {version} --reason …` does so."
            )
        self.promote(version, reason=gate["reason"], expected=expected)
        return f"{row['name']}@{CHAMPION} is {version} now (before: {expected or 'none'})"

    def note(self, version: str, event: str, **fields: Any) -> pl.DataFrame:
        """Add what a server is to do with a version, or showed of it: load, canary (with a verdict), switch, deploy.

        Args:
            version: Name of the version.
            event: load, canary, switch or deploy.
            fields: Columns of ``model_events``.
        """
        return self._add(events.registered(self.events(), version), event=event, **fields)

    def promote(
        self,
        version: str,
        *,
        alias: str = CHAMPION,
        reason: str = "",
        is_forced: bool = False,
        expected: str | None = "",
    ) -> pl.DataFrame:
        """Let an alias name a version from now on.

        Args:
            version: Name of the version.
            alias: The alias.
            reason: Why; required where it is forced.
            is_forced: Promote against the gate, or without one; the event says so for ever.
            expected: The version that the alias must name until now (null: none); empty: what it names when this is
                called. Of two who promote at once, one finds another version there.

        Returns:
            The event; no row where the alias names the version already.

        Raises:
            RegistryError: No gate lets exactly these weights pass, the version is a control or retired, its folder is
                another one now, or somebody else promoted meanwhile. Nothing was changed.
        """
        events.check_alias(alias)
        known = self.events()
        row = events.registered(known, version)
        if expected == "":
            expected = events.named(known, row["name"], alias)
        if is_forced and not reason.strip():
            raise RegistryError(f"to promote {version} against the gate needs a reason; give one with --reason.")
        self._may_be_promoted(known, row, is_forced=is_forced)
        self.check(version)

        def choose(rows: pl.DataFrame) -> pl.DataFrame:
            now = self._all(rows)
            current = events.named(now, row["name"], alias)
            if current == version:
                return self._made(rows)
            if current != expected:
                last = now.filter(pl.col("event").is_in(["alias", "rollback"]), name=row["name"]).sort("seq")
                who = last.row(-1, named=True) if last.height else {"actor": None}
                raise RegistryError(
                    f"{version} is not promoted: {row['name']}@{alias} names {current or 'no version'} now (by "
                    f"{who['actor'] or 'an earlier version of arislab'}), and named {expected or 'none'} when this "
                    f"began. {_NEXT}"
                )
            # once more on what stands there now: a version may have been retired meanwhile
            self._may_be_promoted(now, row, is_forced=is_forced)
            fields = {"alias": alias, "previous": current, "reason": reason, "is_forced": is_forced}
            return self._made(rows, _of(row) | {"event": "alias"} | fields)

        return self._table.extend(choose)

    def roll_back(self, name: str, *, alias: str = CHAMPION, reason: str = "") -> dict[str, Any]:
        """Let an alias name the version again that it named before the present one.

        Args:
            name: Family.
            alias: Its alias.
            reason: Why.

        Returns:
            The event: version (the one that holds again), previous (the one that does not any more), …

        Raises:
            RegistryError: The alias has named no other version that could be served, or somebody else promoted or
                rolled back meanwhile. Nothing was changed.
        """
        began = events.named(self.events(), name, alias)

        def choose(rows: pl.DataFrame) -> pl.DataFrame:
            now = self._all(rows)
            current, earlier = events.named(now, name, alias), events.before(now, name, alias)
            if current != began:
                raise RegistryError(f"{name}@{alias} names {current} now, and named {began} when this began. {_NEXT}")
            if current is None or earlier is None:
                raise RegistryError(
                    f"{name}@{alias} names {current or 'no version'} and named no other one before that is not retired;"
                    " there is nothing to go back to. `arislab models history` lists what happened."
                )
            self.check(earlier)
            row = events.registered(now, earlier)
            return self._made(
                rows, _of(row) | {"event": "rollback", "alias": alias, "previous": current, "reason": reason}
            )

        return self._table.extend(choose).row(0, named=True)

    def retire(self, version: str, *, reason: str) -> pl.DataFrame:
        """Let a version never be promoted again; its folder stays, as records need it.

        Args:
            version: Name of the version.
            reason: Why.

        Returns:
            The event; no row where it is retired already.

        Raises:
            RegistryError: An alias names it, or there is no such version, or no reason.
        """
        if not reason.strip():
            raise RegistryError(f"to retire {version} needs a reason; give one with --reason.")

        def choose(rows: pl.DataFrame) -> pl.DataFrame:
            now = self._all(rows)
            row = events.registered(now, version)
            state = events.states(now).filter(version=version)["state"].item()
            if state not in ("candidate", "control", "retired"):
                raise RegistryError(
                    f"{version} is {row['name']}@{state}; promote another one first, or `arislab rollback "
                    f"{row['name']}`."
                )
            new = [] if state == "retired" else [_of(row) | {"event": "retire", "reason": reason}]
            return self._made(rows, *new)

        return self._table.extend(choose)

    def check(self, version: str, *, base: dict[str, str] | None = None) -> dict[str, Any]:
        """Look whether a folder still is what was registered, file by file.

        Args:
            version: Name of the version.
            base: name and sha256 of the base model that is to be under it, as ``finetune.base_fingerprint`` gives
                them; null: not looked at.

        Returns:
            The event that registered it.

        Raises:
            RegistryError: There is no such version or folder, a file is missing or another one, or the base is.
        """
        row = events.registered(self.events(), version)
        manifest = _manifest(self.folder / version)
        _check_files(self.folder / version, manifest, row)
        given = manifest["base"]
        if base is not None and base["sha256"] != given["sha256"]:
            raise RegistryError(
                f"{version} adapts {given['name']} (sha256 {given['sha256'][:12]}), and the base here is {base['name']}"
                f" (sha256 {base['sha256'][:12]}): of the same shape it would load, and answer nonsense. Give the base "
                "that it was trained on."
            )
        return row

    def manifest(self, version: str) -> dict[str, Any]:
        """Return the manifest of a version's folder."""
        return _manifest(self.folder / version)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _all(self, rows: pl.DataFrame) -> pl.DataFrame:
        return events.with_older(rows, self._older.read())

    def _add(self, row: dict[str, Any], **fields: Any) -> pl.DataFrame:
        return self._table.extend(lambda known: self._made(known, _of(row) | fields))

    def _made(self, known: pl.DataFrame, *each: dict[str, Any]) -> pl.DataFrame:
        new = known.clear()
        for fields in each:
            one = events.made(
                pl.concat([known, new], how="diagonal"),
                self._run_id,
                time.time_ns() // 1000,
                **fields,
                actor=self._actor,
            )
            new = pl.concat([new, one], how="diagonal")
        return new

    def _facts(self, row: dict[str, Any]) -> dict[str, Any]:
        folder = self.folder / row["model_path"]
        manifest = _manifest(folder)
        detail = {
            "training": row["id"],
            "data_version": row.get("data_version"),
            "data_sha256": manifest.get("data_sha256"),
            "base_sha256": manifest["base"]["sha256"],
            "manifest_sha256": files.of_file(folder / MANIFEST)["sha256"],
        }
        fact = {k: row[k] for k in ("name", "base_model", "adapter_sha256", "arm")}
        fact |= {"event": "register", "version": row["model_path"], "detail": detail}
        _check_files(folder, manifest, fact | {"detail": json.dumps(detail)})
        return fact

    def _may_be_promoted(self, known: pl.DataFrame, row: dict[str, Any], *, is_forced: bool) -> None:
        version = row["version"]
        if known.filter(event="retire", version=version).height:
            raise RegistryError(f"{version} is retired and is not promoted again; train a new one.")
        if is_forced:
            return
        if "control" in (row["arm"] or ""):
            raise RegistryError(
                f"{version} is a control ({row['arm']}): it shows what curating is worth, and is none for promotion. "
                "--force promotes it all the same, with a --reason."
            )
        gate = events.judged(known, version, row["adapter_sha256"])
        if gate is None or gate["verdict"] != "promote":
            said = f"the gate said {gate['verdict']}: {gate['reason']}" if gate else "no gate has judged these weights"
            raise RegistryError(
                f"{version} is not promoted: {said}. Run `arislab run evaluate`, or promote it against the gate with "
                "--force and a --reason, which the registry keeps for ever."
            )


def _of(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("name", "version", "adapter_sha256", "base_model", "arm")}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"has no {MANIFEST}" if folder.is_dir() else "is gone"
        raise RegistryError(
            f"{folder} {what}; bring the folder back under this name, or train again (arislab run finetune)."
        ) from None
    except ValueError as error:
        raise RegistryError(f"{path} is no JSON ({error}); bring it back as it was.") from None
    if not isinstance(manifest, dict) or not {"name", "arm", "base", "files"} <= set(manifest):
        raise RegistryError(f"{path} is no manifest of an adapter: name, arm, base or files are missing.")
    return manifest


def _check_files(folder: Path, manifest: dict[str, Any], row: dict[str, Any]) -> None:
    sha256, weights = row["adapter_sha256"], manifest["files"].get("adapter_model.safetensors")
    name = f"{manifest['name']}-{manifest['arm']}-{sha256[:12]}"
    registered = json.loads(row["detail"] or "{}").get("manifest_sha256")
    if folder.name != name or weights != sha256:
        raise RegistryError(
            f"{folder.name} is not the folder of its weights: its manifest says {manifest['name']}-{manifest['arm']}-"
            f"{str(weights)[:12]}, the registry sha256 {sha256[:12]}. Folders are not renamed; give it its name back."
        )
    if registered is not None and files.of_file(folder / MANIFEST)["sha256"] != registered:
        raise RegistryError(f"{folder / MANIFEST} is another file than was registered; bring it back as it was.")
    for each, digest in sorted(manifest["files"].items()):
        path = folder / each
        if not path.is_file() or files.of_file(path)["sha256"] != digest:
            what = "is another file than was trained" if path.is_file() else "is missing"
            raise RegistryError(f"{path} {what} (sha256 {digest[:12]} is wanted); bring it back as it was.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
