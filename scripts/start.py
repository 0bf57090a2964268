"""Makes this tree a service of its own, and merges other versions of the platform into it.

    python scripts/start.py NAME           `make start NAME=orders-api`: remove the sample, set the service's name
    python scripts/start.py --merge REF    `make merge FROM=v0.2.0`: merge, and leave the sample out again

The sample is what REMOVED lists and, in the files that stay, lines that end with `# sample` or `<!-- sample -->`, and
blocks from `# sample: begin` to `# sample: end`. A tree whose [tool.plinth] name is not "plinth" was started already.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Files, but for folders that a service has nothing of its own in: a merge removes them again.
REMOVED = (
    "app/api/v1/exports.py",
    "app/api/v1/items.py",
    "app/business/export_file.py",
    "app/business/exports.py",
    "app/business/items.py",
    "app/jobs/exports.py",
    "app/models/export.py",
    "app/models/item.py",
    "app/schemas/export.py",
    "app/schemas/item.py",
    "docs/job-tour.md",
    "docs/tour.md",
    "migrations/versions/20261129_0000_items_and_exports.py",
    "migrations/versions/20261130_0000_item_tags.py",
    "migrations/versions/20261130_0001_item_tags_of_items.py",
    "scripts/make_items.py",
    "scripts/pictures.py",
    "scripts/first_run.sh",
    "tests/e2e",
    "tests/images/test_compose.py",
    "tests/integration/api/test_exports.py",
    "tests/integration/api/test_items.py",
    "tests/integration/business/test_item_tags.py",
    "tests/integration/jobs/test_exports.py",
    "tests/adoption/test_roll_out.py",
    "tests/docs/test_docs.py",
    "tests/docs/test_jobs.py",
    "tests/integration/test_export_memory.py",
    "tests/integration/test_owners.py",
    "tests/integration/test_with_items.py",
    "tests/unit/business/test_export_file.py",
    "tests/unit/business/test_items.py",
)

# What the service owns, so that a merge keeps its own version.
OURS = ("README.md", "CHANGELOG.md")

NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])")

# file: what is found there, and what it becomes
NAMES = {
    "pyproject.toml": [(r'(?m)^(\[tool\.plinth\]\nname = )"plinth"$', r'\1"{name}"')],
    "app/__init__.py": [(r'^"""Plinth: [^"]*"""', '"""{name}: its API, its jobs and its tables."""')],
    "app/core/config.py": [(r'(PROJECT_NAME: .*?)"Plinth"', r'\1"{name}"')],
    ".env.example": [
        (r"(?m)^PROJECT_NAME=Plinth$", "PROJECT_NAME={name}"),
        (r"(?m)^# Days until an exported file is deleted\.\n# EXPORTS_KEEP_DAYS=.*\n", ""),
    ],
    "k8s/values.yaml": [(r"(?m)^  repository: plinth$", "  repository: {name}")],
    "charts/plinth/values.schema.json": [(r',\n        "EXPORTS_KEEP_DAYS": \{[^}]*\}', "")],
    "docker/Dockerfile": [
        (r'(image\.title=)"Plinth"', r'\1"{name}"'),
        (r'(image\.description=)"[^"]*"', r'\1"The service {name}"'),
    ],
    "docker/docker-compose.yml": [(r"(?m)^name: plinth$", "name: {name}")],
    "skaffold.yaml": [
        (r"((?:image|name|namespace): )plinth(-dev|-e2e)?(?m:$)", r"\1{name}\2"),
        (r"(IMAGE_(?:REPO|TAG)_)plinth", r"\1{variable}"),
    ],
}

README = """\
# {name}

    make run     everything on this machine: PostgreSQL, Redis, API and worker; prints the URL and a token
    make test    the tests, on servers of their own
    make help    the rest

`app/` is the service, `migrations/` its revisions. It stands on Plinth, the platform in `plinth/`, whose pages are in
[docs/](docs): [add a resource](docs/add-a-resource.md), [jobs](docs/jobs/index.md), [Kubernetes](docs/kubernetes.md).

`plinth/`, `charts/plinth`, `docs/` and `tests/plinth` are the platform's. They stay as they are, so that its next
version can be merged: `make merge FROM=v0.2.0`.
"""

CHANGELOG = """\
# Changelog

## Unreleased

### Added

- The service, on Plinth {platform}.
"""

NEXT = """\
This tree is {name} now, and its sample is gone. Next:

    make lint test                what is left is green
    git add -A && git commit -m "Start {name}"
    make run                      serves; docs/add-a-resource.md adds the first resource
    git remote rename origin platform, and later: git fetch platform --tags && make merge FROM=v0.2.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--merge", metavar="REF", help="merge another version of the platform into the service")
    parser.add_argument("--prune", action="store_true", help=argparse.SUPPRESS)  # by the code that was merged
    arguments = parser.parse_args()
    if arguments.prune:
        prune(besides="HEAD")
    elif arguments.merge is not None:
        merge(arguments.merge)
    else:
        start(arguments.name)


def start(name: str) -> None:
    if not NAME.fullmatch(name) or name == "plinth" or "--" in name:
        sys.exit(
            "Say what the service is called: make start NAME=orders-api. Small letters, digits and single hyphens, "
            "2 to 40 of them, a letter first; plinth is the platform's own name."
        )
    if (found := service_name()) != "plinth":
        sys.exit(f"This tree is the service {found} already.")
    refuse_a_dirty_tree()
    platform = re.search(r'__version__ = "(.+)"', read("plinth/__init__.py"))
    named = {file: with_name(file, name) for file in NAMES}
    for file, text in named.items():
        write(file, text)
    prune()
    write("README.md", README.format(name=name))
    write("CHANGELOG.md", CHANGELOG.format(platform=platform[1] if platform else ""))
    write(".gitattributes", "# What the service owns: a merge of the platform keeps it.\n")
    write(".gitattributes", read(".gitattributes") + "".join(f"{file} merge=ours\n" for file in OURS))
    print(NEXT.format(name=name), end="")


def merge(ref: str) -> None:
    if service_name() == "plinth":
        sys.exit("This tree is the platform itself. A service of your own: make start NAME=orders-api.")
    if not ref or git("rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}").returncode:
        sys.exit(
            f"There is no version {ref or 'given'}. Bring the platform's with git fetch platform --tags, list them "
            "with git tag, and merge one: make merge FROM=v0.2.0."
        )
    refuse_a_dirty_tree()
    git("-c", "merge.ours.driver=true", "merge", "--no-ff", "--no-commit", ref)
    if git("rev-parse", "--quiet", "--verify", "MERGE_HEAD").returncode:
        sys.exit(f"There is nothing to merge: {ref} is part of this service already.")
    # By the list that came with the merge, which knows what is new in the sample.
    subprocess.run([sys.executable, __file__, "--prune"], cwd=ROOT, check=True)
    # Locks are compiled anew anyway.
    for file in unmerged():
        if file.startswith("requirements/"):
            git("checkout", "--theirs", "--", file, check=True)
            git("add", "--", file, check=True)
    left = unmerged()
    for file in changed():
        if file not in left:
            git("add", "--", file, check=True)
    if left:
        sys.exit("Solve these, then git add and git commit:\n" + "".join(f"    {file}\n" for file in left))
    git("commit", "--no-edit", "--quiet", check=True)
    print(f"{ref} is merged. What it asks of you, under What you must do: git show {ref}:CHANGELOG.md")
    print("Then: make lock schema migrate lint test")


def prune(*, besides: str = "") -> None:
    """Remove the sample, except for what the commit `besides` has under one of its names: that is the service's own."""
    for path in REMOVED:
        if besides and not git("cat-file", "-e", f"{besides}:{path}").returncode:
            git("checkout", besides, "--", path, check=True)
            continue
        git("rm", "-r", "--force", "--quiet", "--ignore-unmatch", "--", path, check=True)
        shutil.rmtree(ROOT / path, ignore_errors=True)  # what is compiled
    for file in marked_files():
        write(file, without_sample(read(file)))
    keep = ROOT / "migrations/versions/.gitkeep"
    keep.parent.mkdir(exist_ok=True)
    keep.touch()


def without_sample(text: str) -> str:
    text = re.sub(r"(?ms)^[ \t]*# sample: begin$.*?^[ \t]*# sample: end\n", "", text)
    text = re.sub(r"(?m)^.* (?:# sample|<!-- sample -->)\n", "", text)
    return text.rstrip() + "\n"


def marked_files() -> Iterator[str]:
    # A line may end in a carriage return.
    marks = "(# sample(: begin)?|<!-- sample -->)[[:space:]]*$"
    yield from paths("grep", "--files-with-matches", "-I", "-E", marks, "--", ":!scripts/start.py")


def with_name(file: str, name: str) -> str:
    text = read(file)
    for pattern, replacement in NAMES[file]:
        filled = replacement.replace("{name}", name).replace("{variable}", name.replace("-", "_"))
        text, count = re.subn(pattern, filled, text)
        if not count:
            sys.exit(f"Nothing was changed: {file} has nothing like {pattern}")
    return text


def service_name() -> str:
    found = re.search(r'(?m)^\[tool\.plinth\]\nname = "(.+)"$', read("pyproject.toml"))
    if not found:
        sys.exit("pyproject.toml lacks the name under [tool.plinth].")
    return found[1]


def refuse_a_dirty_tree() -> None:
    done = git("status", "--porcelain")
    if done.returncode:
        sys.exit("This is no git repository: git init && git add -A && git commit -m Plinth, then again.")
    if done.stdout:
        sys.exit("There are changes that are not committed: commit or stash them first.")


def git(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=check)


def unmerged() -> list[str]:
    return list(paths("diff", "--name-only", "--diff-filter=U"))


def changed() -> list[str]:
    return list(paths("diff", "--name-only"))


def paths(command: str, *arguments: str) -> Iterator[str]:
    """What a command of git lists, as files are called: without -z it would put quotes around odd names."""
    return filter(None, git(command, "-z", *arguments).stdout.split("\0"))


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def write(file: str, text: str) -> None:
    (ROOT / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
