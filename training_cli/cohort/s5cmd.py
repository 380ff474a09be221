"""Files from the buckets of NCI Imaging Data Commons, or of a mirror of it, by the program s5cmd.

A series counts as whole when its files are as many, and as large in sum, as the index says, and each has the MD5 that
the bucket gives it. It is fetched into ``.part-<name>``, and that folder is renamed when it is whole, so a folder with
the final name is whole. After an interruption, however it came, the same call goes on with the files that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError

from ..options import install_command

VARIABLES = ("CNNSURVIVAL_S3_ENDPOINT", "S3_ENDPOINT_URL")  # the second is s5cmd's own
URLS = {"aws": "https://s3.amazonaws.com", "gcs": "https://storage.googleapis.com"}
GCS_BUCKETS = {"idc-open-data-two": "idc-open-idc1", "idc-open-data-cr": "idc-open-cr"}  # the others have one name
RETRIES = 5  # with growing pauses, half a minute in all
WORKERS = 32
PART = ".part-"

MISSING = "it is not in the bucket"
# What s5cmd's messages contain -> what it means and what to do. The first that fits.
PROBLEMS = (
    (("no space left", "disk quota exceeded", "not enough space"), "the disk is full",
     "free some space or choose another folder"),
    (("status code: 403", "accessdenied", "forbidden"), "the server refuses access (403)",
     "check the endpoint; on a mirror, the objects must be readable by everyone"),
    (("status code: 503", "status code: 500", "status code: 429", "slowdown", "serviceunavailable"),
     "the server is busy (503 after several tries)", "wait a while"),
    (("no object found", "nosuchkey", "nosuchbucket", "notfound", "status code: 404"), MISSING,
     "check the endpoint"),
    (("unexpected eof", "connection reset", "broken pipe"), "the connection broke off", "check the network"),
    (("certificate", "x509"), "the server's certificate is not trusted", "check the endpoint"),
    (("connection refused", "no such host", "dial tcp", "timeout", "unreachable", "send request failed"),
     "the server cannot be reached", "check the network and the endpoint"),
    (("can not contain glob",), "the name of the folder has a * or ?, which s5cmd does not take",
     "choose another folder"),
)  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """Where the buckets are. name: aws, gcs or the URL."""

    name: str
    url: str

    def bucket(self, name: str) -> str:
        """The name here of a bucket that the index names as on AWS; a mirror has AWS's names."""
        return GCS_BUCKETS.get(name, name) if self.url == URLS["gcs"] else name


def find_endpoint(given: str | None = None) -> Endpoint:
    """The endpoint that is meant by aws, gcs or a URL; without one by $CNNSURVIVAL_S3_ENDPOINT or $S3_ENDPOINT_URL,
    else AWS.

    Raises UsageError for anything else.
    """
    text = (given or next(filter(None, map(os.environ.get, VARIABLES)), "aws")).strip()
    if text.lower() in URLS:
        return Endpoint(text.lower(), URLS[text.lower()])
    if not text.startswith(("http://", "https://")):
        raise UsageError(f"The endpoint '{text}' is none; give aws, gcs, or the address of a mirror that begins with "
                         "https:// or http://.")  # fmt: skip
    return Endpoint(text, text.rstrip("/"))


class Folder(NamedTuple):
    """What to fetch: all objects below a prefix, into one folder. url: ``s3://BUCKET/PREFIX/*`` as the index has it.
    files, bytes: what the index says of them; None where it says nothing. about: whose it is, for messages."""

    name: str
    url: str
    files: int | None
    bytes: int | None
    about: str


class Object(NamedTuple):
    """An object of a bucket. md5: its ETag; None where that is none, as for objects that were uploaded in parts. (The
    ETag of an object that was encrypted with a key is none either, but nobody reads those without an account.)"""

    url: str
    name: str
    bytes: int
    md5: str | None


# --- Fetching ---------------------------------------------------------------------------------------------------------


def is_whole(folder: Folder, target: Path) -> bool:
    """Whether it is there, with as many files and bytes as the index says."""
    path = target / folder.name
    if not path.is_dir():
        return False
    sizes = [file.stat().st_size for file in path.iterdir()]
    return (folder.files is None or len(sizes) == folder.files) and folder.bytes in (None, sum(sizes))


def fetch(folders: list[Folder], target: Path, endpoint: Endpoint, log: Callable[[str], None] = print) -> None:
    """Fetch those that are not whole yet into ``target/<name>``.

    Raises
    ------
    CNNSurvivalError
        At the end, if some could not be fetched: how many, the first one and why, and what to do. The others are
        there then, whole.
    """
    try:
        _fetch(folders, target, endpoint, log)
    except OSError as error:
        raise CNNSurvivalError(f"The folder '{target}' cannot be written ({error.strerror or error}); choose another "
                               "folder, free some space or change its permissions.") from error  # fmt: skip


def _fetch(folders: list[Folder], target: Path, endpoint: Endpoint, log: Callable[[str], None]) -> None:
    wanted = [folder for folder in folders if not is_whole(folder, target)]
    log(f"{len(folders) - len(wanted)} of {len(folders)} series are here already.")
    if not wanted:
        return
    target.mkdir(parents=True, exist_ok=True)
    listed, problems = _list(wanted, endpoint)
    if any(map(_ends_all, problems.values())):
        raise _failed(wanted, problems, endpoint)
    problems.update(_not_as_indexed(listed))
    waiting = {folder: objects for folder, objects in listed.items() if folder.name not in problems}
    _check_space(waiting, target)
    problems.update(_copy(waiting, target, endpoint, log))
    if problems:
        raise _failed(wanted, problems, endpoint)


def _list(wanted: list[Folder], endpoint: Endpoint) -> tuple[dict[Folder, list[Object]], dict[str, str]]:
    """(objects of each folder, name -> problem of those that could not be listed)."""
    by_prefix = {_prefix(folder, endpoint): folder for folder in wanted}
    listed: dict[Folder, list[Object]] = {folder: [] for folder in wanted}

    def take(record: dict) -> None:
        prefix, _, name = record.get("key", "").rpartition("/")
        if record.get("type") == "file" and prefix in by_prefix:
            etag = record.get("etag", "").strip('"')
            md5 = etag if len(etag) == 32 and "-" not in etag else None
            listed[by_prefix[prefix]].append(Object(record["key"], name, int(record.get("size", 0)), md5))

    errors = _run([f'ls -e "{prefix}/*"' for prefix in by_prefix], endpoint, take)
    problems = {}
    for prefix, folder in by_prefix.items():
        problem = _problem(prefix, errors, None if listed[folder] else "no object found")
        if problem:
            problems[folder.name] = problem
            del listed[folder]
    return listed, problems


def _problem(prefix: str, errors: list[dict], otherwise: str | None) -> str | None:
    """What is wrong with a folder: its own error, else the one that ended all, else ``otherwise``."""
    own = [error for error in errors if f"{prefix}/" in error.get("command", "")]
    ending = [error for error in errors if _ends_all(error["error"])]
    return (own or ending or [{"error": otherwise}])[0]["error"]


def _ends_all(error: str) -> bool:
    return explain(error)[0] != MISSING


def _prefix(folder: Folder, endpoint: Endpoint) -> str:
    bucket, _, prefix = folder.url.removeprefix("s3://").partition("/")
    return f"s3://{endpoint.bucket(bucket)}/{prefix.removesuffix('*').rstrip('/')}"


def _not_as_indexed(listed: dict[Folder, list[Object]]) -> dict[str, str]:
    problems = {}
    for folder, objects in listed.items():
        size = sum(item.bytes for item in objects)
        if folder.files not in (None, len(objects)) or folder.bytes not in (None, size):
            problems[folder.name] = (f"the bucket holds {len(objects)} files with {size} bytes, the index says "
                                     f"{folder.files} with {folder.bytes}")  # fmt: skip
    return problems


def _check_space(waiting: dict[Folder, list[Object]], target: Path) -> None:
    here = sum(path.stat().st_size for folder in waiting for path in (target / (PART + folder.name)).glob("*"))
    needed = sum(item.bytes for objects in waiting.values() for item in objects) - here
    free = shutil.disk_usage(target).free
    if needed > free:
        raise CNNSurvivalError(f"The folder '{target}' has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are "
                               "needed; free some space or choose another folder.")  # fmt: skip


def _copy(
    waiting: dict[Folder, list[Object]], target: Path, endpoint: Endpoint, log: Callable[[str], None]
) -> dict[str, str]:
    """Copy what is missing and rename what is whole; name -> problem of the rest."""
    from tqdm import tqdm

    parts = {folder: _as_part(target, folder.name) for folder in waiting}
    missing = {folder: _missing(objects, parts[folder]) for folder, objects in waiting.items()}
    left = {folder: len(objects) for folder, objects in missing.items()}
    owner = {item.url: folder for folder, objects in missing.items() for item in objects}
    problems: dict[str, str] = {}

    whole: list[Folder] = []

    def finish(folder: Folder) -> None:
        try:
            problem = _finish(waiting[folder], parts[folder], target / folder.name)
        except OSError as error:
            problem = str(error)
        if problem:
            problems[folder.name] = problem
            return
        whole.append(folder)
        if len(whole) * 10 // len(waiting) > (len(whole) - 1) * 10 // len(waiting):  # each tenth
            log(f"{len(whole)} of {len(waiting)} series are fetched.")

    for folder in waiting:
        if not left[folder]:
            finish(folder)
    total = sum(item.bytes for objects in missing.values() for item in objects)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Fetching", file=sys.stderr, disable=None) as bar:

        def take(record: dict) -> None:
            folder = owner.get(record.get("source", ""))
            if folder is not None and record.get("success"):
                bar.update(record["object"]["size"])
                left[folder] -= 1
                if not left[folder]:
                    finish(folder)

        lines = [f'cp "{item.url}" {shlex.quote((parts[folder] / item.name).as_posix())}'
                 for folder, objects in missing.items() for item in objects]  # fmt: skip
        errors = _run(lines, endpoint, take)
    for folder in waiting:
        if left[folder]:
            problems[folder.name] = _problem(_prefix(folder, endpoint), errors, "s5cmd ended early")
    return problems


def _as_part(target: Path, name: str) -> Path:
    """The folder to fetch into; one that is not whole under its final name, as files were deleted, becomes it."""
    final, part = target / name, target / (PART + name)
    if final.exists() and part.exists():
        shutil.rmtree(final)
    elif final.exists():
        final.rename(part)
    return part


def _missing(objects: list[Object], part: Path) -> list[Object]:
    """The objects that are not there yet, whole; whatever else lies in the folder is removed."""
    part.mkdir(parents=True, exist_ok=True)
    here = {item.name for item in objects if _same(part / item.name, item)}
    for path in part.iterdir():
        if path.name not in here:
            path.unlink(missing_ok=True)  # an s5cmd whose parent was killed may still be at it
    return [item for item in objects if item.name not in here]


def _finish(objects: list[Object], part: Path, final: Path) -> str | None:
    """Check the files, and rename the folder. Returns what is wrong, if something is; such files are removed."""
    wrong = _missing(objects, part)
    if wrong:
        return f"{len(wrong)} files arrived with other content than the bucket says ({wrong[0].name})"
    part.rename(final)
    for path in final.iterdir():
        if path.name not in {item.name for item in objects}:
            path.unlink(missing_ok=True)
    return None


def _same(path: Path, item: Object) -> bool:
    """Whether a file has the object's size and MD5."""
    if not path.is_file() or path.stat().st_size != item.bytes:
        return False
    if item.md5 is None:
        return True
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == item.md5


# --- Problems ---------------------------------------------------------------------------------------------------------


def explain(error: str) -> tuple[str, str]:
    """(what is wrong, what to do) for a message of s5cmd, or for one of this file."""
    text = error.lower()
    for signs, what, advice in PROBLEMS:
        if any(sign in text for sign in signs):
            return what, advice
    return error.strip().rstrip("."), "check the network and the endpoint"


def _failed(wanted: list[Folder], problems: dict[str, str], endpoint: Endpoint) -> CNNSurvivalError:
    """One sentence about the first problem, and how many there are; a cause that holds for all goes first."""
    failed = [folder for folder in wanted if folder.name in problems]
    explained = {folder: explain(problems[folder.name]) for folder in failed}
    index = [folder for folder in failed if explained[folder][0] == MISSING or "index says" in explained[folder][0]]
    others = [folder for folder in failed if folder not in index]
    if others:
        what, advice = explained[others[0]]
        return CNNSurvivalError(
            f"{len(failed)} of {len(wanted)} series could not be fetched from {endpoint.url}, first that of "
            f"{others[0].about}: {what}; {advice}, then give the same command again to continue."
        )
    what, _ = explained[index[0]]
    if index[0].files is None:
        return CNNSurvivalError(f"{index[0].about[:1].upper()}{index[0].about[1:]} is not in the bucket at "
                                f"{endpoint.url}.")  # fmt: skip
    named = "; ".join(folder.about for folder in index[:5]) + (" and others" if len(index) > 5 else "")
    problem = "is in the index but not in the bucket" if what == MISSING else f"is not as in the index: {what}"
    return CNNSurvivalError(
        f"{len(index)} of {len(wanted)} series could not be fetched from {endpoint.url}: that of {named} {problem}; "
        "update idc-index, or leave the patient out (--without; for a study, 'without' of its [[cohort]]), then give "
        "the same command again."
    )


# --- The program ------------------------------------------------------------------------------------------------------


def program() -> str:
    """The path of s5cmd. Raises UsageError where it is not installed."""
    found = shutil.which("s5cmd")
    if found:
        return found
    try:
        files = metadata.distribution("s5cmd").files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("s5cmd", "s5cmd.exe") and Path(file.locate()).is_file():
            return str(file.locate())
    raise UsageError(f"s5cmd is not installed here; run {install_command('download')}.")


def _run(lines: list[str], endpoint: Endpoint, take: Callable[[dict], None]) -> list[dict]:
    """Run s5cmd's commands, several at once; ``take`` gets each record that it prints, as it comes.

    Any error but that of an object that is not there ends all: s5cmd has tried several times by then, and would do so
    again for each of thousands of files.

    Returns the errors, each with "command" and "error".
    """
    if not lines:
        return []
    with tempfile.TemporaryDirectory() as folder:
        commands = Path(folder) / "commands.txt"
        commands.write_text("\n".join(lines) + "\n", encoding="utf-8")
        call = [program(), "--no-sign-request", "--endpoint-url", endpoint.url, "--json", "-r", str(RETRIES),
                "--numworkers", str(WORKERS), "run", str(commands)]  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        with subprocess.Popen(call, **pipes) as process:  # type: ignore[call-overload]
            errors: list[dict] = []
            watch = threading.Thread(target=_watch, args=(process, errors), daemon=True)
            watch.start()
            try:
                for line in process.stdout:
                    record = _record(line)
                    if record:
                        take(record)
            except BaseException:
                process.kill()
                raise
            finally:
                watch.join()
            code = process.wait()
    return errors or ([{"error": f"s5cmd ended with the code {code}"}] if code else [])


def _watch(process: subprocess.Popen, errors: list[dict]) -> None:
    """Collect what s5cmd prints as errors, until it ends or must be ended."""
    for line in process.stderr:
        record = _record(line)
        if "error" in record:
            errors.append(record)
            if _ends_all(record["error"]):
                process.kill()
        elif not record and line.strip() and line.startswith((b"ERROR", b"error")):
            errors.append({"error": line.decode("utf-8", "replace").strip()})


def _record(line) -> dict:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
